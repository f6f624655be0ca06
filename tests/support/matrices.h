// Random weights and activations in the checkpoint's formats, with their values in double for independent formulas.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "base/dtype.h"
#include "ops/weight.h"
#include "support/random_data.h"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace dsv4::test {

// Sets the number of OpenMP threads for the lifetime of the object.
class ScopedThreads {
 public:
#ifdef _OPENMP
  explicit ScopedThreads(int num_threads) : previous_(omp_get_max_threads()) {
    omp_set_num_threads(num_threads);
  }
  ~ScopedThreads() {
    omp_set_num_threads(previous_);
  }

 private:
  int previous_;
#else
  explicit ScopedThreads(int) {}
#endif
};

struct Fp8Matrix {
  int rows, cols;
  std::vector<uint8_t> codes, scales;

  Fp8Matrix(Random& random, int num_rows, int num_cols)
      : rows(num_rows),
        cols(num_cols),
        codes(random_e4m3(random, static_cast<size_t>(num_rows) * num_cols)),
        scales(random_ue8m0(random, static_cast<size_t>(ceil_div(num_rows, 128)) * ceil_div(num_cols, 128))) {}

  Fp8Weight view() const { return {codes.data(), scales.data(), rows, cols}; }
  ExpertMatrix expert() const { return {codes.data(), scales.data()}; }
  double at(int row, int col) const {
    const double scale = ue8m0_to_float(scales[static_cast<size_t>(row / 128) * ceil_div(cols, 128) + col / 128]);
    return scale * e4m3_to_float(codes[static_cast<size_t>(row) * cols + col]);
  }
};

struct Fp4Matrix {
  int rows, cols;
  std::vector<uint8_t> codes, scales;

  Fp4Matrix(Random& random, int num_rows, int num_cols)
      : rows(num_rows),
        cols(num_cols),
        codes(random_bytes(random, static_cast<size_t>(num_rows) * num_cols / 2)),
        scales(random_ue8m0(random, static_cast<size_t>(num_rows) * num_cols / 32)) {}

  ExpertMatrix expert() const { return {codes.data(), scales.data()}; }
  double at(int row, int col) const {
    const size_t idx = static_cast<size_t>(row) * cols + col;
    const uint8_t pair = codes[idx / 2];
    return static_cast<double>(ue8m0_to_float(scales[idx / 32])) * e2m1_to_float(col % 2 == 0 ? pair & 0xf : pair >> 4);
  }
};

struct Bf16Matrix {
  int rows, cols;
  std::vector<Bf16> data;

  Bf16Matrix(Random& random, int num_rows, int num_cols, float stddev = 1.0f)
      : rows(num_rows), cols(num_cols), data(random_bf16(random, static_cast<size_t>(num_rows) * num_cols, stddev)) {}

  Bf16Weight view() const { return {data.data(), rows, cols}; }
  double at(int row, int col) const { return to_float(data[static_cast<size_t>(row) * cols + col]); }
};

// code·scale of rows of e4m3 codes with a scale per row and 128 columns, as bf16 (Fp8Activation::values): exact.
inline std::vector<Bf16> fp8_values(const std::vector<uint8_t>& codes, const std::vector<uint8_t>& scales, int cols) {
  std::vector<Bf16> values;
  for (size_t i = 0; i < codes.size(); ++i) {
    const size_t row = i / static_cast<size_t>(cols), col = i % static_cast<size_t>(cols);
    const double scale = ue8m0_to_float(scales[row * static_cast<size_t>(ceil_div(cols, 128)) + col / 128]);
    values.push_back(to_bf16(static_cast<float>(scale * e4m3_to_float(codes[i]))));
  }
  return values;
}

// FP8 activations: one scale per row and 128 columns.
struct Fp8Rows {
  int rows, cols;
  std::vector<uint8_t> codes, scales;

  std::vector<Bf16> values() const { return fp8_values(codes, scales, cols); }

  Fp8Rows(Random& random, int num_rows, int num_cols)
      : rows(num_rows),
        cols(num_cols),
        codes(random_e4m3(random, static_cast<size_t>(num_rows) * num_cols, 100.0f)),
        scales(random_ue8m0(random, static_cast<size_t>(num_rows) * ceil_div(num_cols, 128))) {}

  Fp8Activation view(int first_row = 0) const {
    return {codes.data() + static_cast<size_t>(first_row) * cols, scales.data() + static_cast<size_t>(first_row) * ceil_div(cols, 128)};
  }
  double at(int row, int col) const {
    const double scale = ue8m0_to_float(scales[static_cast<size_t>(row) * ceil_div(cols, 128) + col / 128]);
    return scale * e4m3_to_float(codes[static_cast<size_t>(row) * cols + col]);
  }
};

// Σ_k x[t][k]·w[o][k] in double, and how far an fp32 sum of the same terms in any sensible order may be from it.
struct Dot {
  double value;
  double slack;
};

template <class X, class W>
Dot dot(const X& x, int t, const W& w, int o, int cols) {
  double sum = 0.0, magnitude = 0.0;
  for (int k = 0; k < cols; ++k) {
    const double term = x(t, k) * w(o, k);
    sum += term;
    magnitude += std::fabs(term);
  }
  return {sum, magnitude * 0x1p-24 * (cols / 16 + 8)};
}

template <class X, class W>
Dot dot_rows(const X& x, int t, const W& w, int o) {
  return dot([&](int row, int k) { return x.at(row, k); }, t, [&](int row, int k) { return w.at(row, k); }, o, w.cols);
}

}  // namespace dsv4::test
