// Plain formulas of the spec that several op tests compare with: scalar loops, sums and functions in double, roundings where the spec has
// them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/dtype.h"
#include "ops/kv_layout.h"

namespace dsv4::test {

inline std::vector<float> to_floats(const Bf16* values, size_t count) {
  std::vector<float> floats(count);
  for (size_t i = 0; i < count; ++i) floats[i] = to_float(values[i]);
  return floats;
}

// Frequencies 10000^(−2i/64), without YaRN.
inline std::vector<float> plain_frequencies() {
  std::vector<float> freqs(kRopeDim / 2);
  for (int i = 0; i < kRopeDim / 2; ++i) freqs[i] = static_cast<float>(std::pow(10000.0, -2.0 * i / kRopeDim));
  return freqs;
}

// x·rsqrt(mean(x²) + eps)·weight, not rounded.
inline std::vector<double> reference_rms(const std::vector<float>& x, const Bf16* weight, double eps) {
  double sum = 0.0;
  for (const float value : x) sum += static_cast<double>(value) * value;
  std::vector<double> y(x.size());
  for (size_t i = 0; i < x.size(); ++i) y[i] = x[i] / std::sqrt(sum / static_cast<double>(x.size()) + eps) * to_float(weight[i]);
  return y;
}

// Rotation of the last kRopeDim values to `position`, backwards if `direction` is −1; not rounded.
inline std::vector<double> reference_rotate(const std::vector<float>& x, int position, const std::vector<float>& freqs, int direction = 1) {
  std::vector<double> y(x.begin(), x.end());
  double* rope = y.data() + y.size() - kRopeDim;
  for (int i = 0; i < kRopeDim / 2; ++i) {
    const float angle = static_cast<float>(position) * freqs[i];
    const double a = rope[2 * i], b = rope[2 * i + 1];
    const double c = std::cos(static_cast<double>(angle)), s = direction * std::sin(static_cast<double>(angle));
    rope[2 * i] = a * c - b * s;
    rope[2 * i + 1] = a * s + b * c;
  }
  return y;
}

inline std::vector<float> round_all(const std::vector<double>& values) {
  std::vector<float> rounded(values.size());
  for (size_t i = 0; i < values.size(); ++i) rounded[i] = round_bf16(static_cast<float>(values[i]));
  return rounded;
}

// x·M/√n with M[i][j] = (−1)^(number of common one bits of i and j), the Sylvester matrix in natural order; not rounded.
inline std::vector<double> reference_hadamard(const std::vector<float>& x) {
  const size_t n = x.size();
  std::vector<double> y(n, 0.0);
  for (size_t j = 0; j < n; ++j) {
    for (size_t i = 0; i < n; ++i) y[j] += __builtin_popcountll(i & j) % 2 == 0 ? x[i] : -x[i];
    y[j] /= std::sqrt(static_cast<double>(n));
  }
  return y;
}

// 2^⌈log2(amax / largest)⌉ for the block maximum, by comparing powers of two.
inline double reference_scale(const float* x, int count, double floor, double largest) {
  double amax = floor;
  for (int i = 0; i < count; ++i) amax = std::max(amax, static_cast<double>(std::fabs(x[i])));
  double scale = 0x1p-140;
  while (scale * largest < amax) scale *= 2;
  return scale;
}

// Q8(x; 64) on the dims before the rope part (spec 3.3): the nearest e4m3 value, found by search.
inline std::vector<float> reference_fp8_entry(const std::vector<float>& x) {
  std::vector<float> y = x;
  for (size_t begin = 0; begin + kRopeDim < x.size(); begin += kKvBlock) {
    const double scale = reference_scale(x.data() + begin, kKvBlock, 1e-4, 448.0);
    for (int i = 0; i < kKvBlock; ++i) {
      const double value = x[begin + i] / scale;
      int best = 0;
      for (int code = 0; code < 256; ++code) {
        if ((code & 0x7f) == 0x7f || std::signbit(value) != (code >= 128)) continue;
        const double distance = std::fabs(value - e4m3_to_float(static_cast<uint8_t>(code)));
        const double best_distance = std::fabs(value - e4m3_to_float(static_cast<uint8_t>(best)));
        const bool same_sign = (best >= 128) == (code >= 128);
        if (!same_sign || distance < best_distance || (distance == best_distance && code % 2 == 0)) best = code;
      }
      y[begin + i] = static_cast<float>(e4m3_to_float(static_cast<uint8_t>(best)) * scale);
    }
  }
  return y;
}

// Q4(x; 32) on all dims (spec 3.4): nearest, ties to the even code.
inline std::vector<float> reference_fp4(const std::vector<float>& x) {
  std::vector<float> y = x;
  for (size_t begin = 0; begin < x.size(); begin += kIndexerFp4Block) {
    const double scale = reference_scale(x.data() + begin, kIndexerFp4Block, 6.0 * 0x1p-126, 6.0);
    for (int i = 0; i < kIndexerFp4Block; ++i) {
      const double magnitude = std::fabs(x[begin + i] / scale);
      int best = 0;
      for (int code = 1; code < 8; ++code) {
        const double distance = std::fabs(magnitude - kE2M1Values[code]);
        const double best_distance = std::fabs(magnitude - kE2M1Values[best]);
        if (distance < best_distance || (distance == best_distance && code % 2 == 0)) best = code;
      }
      y[begin + i] = static_cast<float>(std::copysign(kE2M1Values[best] * scale, x[begin + i]));
    }
  }
  return y;
}

// Entry `entry_idx` of a page, read byte by byte.
inline std::vector<float> read_fp8_entry(int head_dim, const uint8_t* page, int entries, int entry_idx) {
  const int nope_dim = head_dim - kRopeDim;
  const uint8_t* values = page + static_cast<size_t>(entry_idx) * (nope_dim + 2 * kRopeDim);
  const size_t scale_bytes = (nope_dim / 64 + 3) / 4 * 4;
  const uint8_t* scales = page + static_cast<size_t>(entries) * (nope_dim + 2 * kRopeDim) + entry_idx * scale_bytes;
  std::vector<float> x(head_dim);
  for (int i = 0; i < nope_dim; ++i) x[i] = e4m3_to_float(values[i]) * ue8m0_to_float(scales[i / 64]);
  for (int i = 0; i < kRopeDim; ++i) {
    x[nope_dim + i] = to_float(Bf16{static_cast<uint16_t>(values[nope_dim + 2 * i] | (values[nope_dim + 2 * i + 1] << 8))});
  }
  return x;
}

inline std::vector<float> read_fp4_values(int dim, const uint8_t* codes, const uint8_t* scales) {
  std::vector<float> x(dim);
  for (int i = 0; i < dim; ++i) x[i] = e2m1_to_float((codes[i / 2] >> (4 * (i % 2))) & 15) * ue8m0_to_float(scales[i / 32]);
  return x;
}

inline std::vector<float> read_fp4_entry(int dim, const uint8_t* page, int entries, int entry_idx) {
  return read_fp4_values(dim, page + static_cast<size_t>(entry_idx) * dim / 2,
                         page + static_cast<size_t>(entries) * dim / 2 + static_cast<size_t>(entry_idx) * dim / 32);
}

// Number of elements that differ at all.
inline int num_different(const std::vector<float>& a, const std::vector<float>& b) {
  int count = 0;
  for (size_t i = 0; i < a.size(); ++i) count += a[i] == b[i] ? 0 : 1;
  return count;
}

}  // namespace dsv4::test
