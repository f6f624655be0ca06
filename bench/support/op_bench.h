// What the op benchmarks share: operands in the checkpoint's formats, copies to read in turn so that no cache holds them, and the figures
// of a row.
#pragma once

#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/dtype.h"
#include "ops/weight.h"

namespace dsv4::bench {

// Arbitrary finite contents: values, not their meaning, matter for speed.
std::vector<uint8_t> fill_e4m3(size_t count);
std::vector<uint8_t> fill_bytes(size_t count);
std::vector<uint8_t> fill_scales(size_t count);
std::vector<Bf16> fill_bf16(size_t count);

struct Fp8Matrix {
  int rows, cols;
  std::vector<uint8_t> codes, scales;

  Fp8Matrix(int num_rows, int num_cols)
      : rows(num_rows),
        cols(num_cols),
        codes(fill_e4m3(static_cast<size_t>(num_rows) * num_cols)),
        scales(fill_scales(static_cast<size_t>(ceil_div(num_rows, kFp8Block)) * ceil_div(num_cols, kFp8Block))) {}
  Fp8Weight view() const { return {codes.data(), scales.data(), rows, cols}; }
  size_t bytes() const { return codes.size() + scales.size(); }
};

struct Fp4Matrix {
  std::vector<uint8_t> codes, scales;

  Fp4Matrix(int rows, int cols)
      : codes(fill_bytes(static_cast<size_t>(rows) * cols / 2)), scales(fill_scales(static_cast<size_t>(rows) * cols / kFp4Block)) {}
  ExpertMatrix view() const { return {codes.data(), scales.data()}; }
  size_t bytes() const { return codes.size() + scales.size(); }
};

struct Fp8Rows {
  std::vector<uint8_t> codes, scales;

  Fp8Rows(int rows, int cols)
      : codes(fill_e4m3(static_cast<size_t>(rows) * cols)), scales(fill_scales(static_cast<size_t>(rows) * ceil_div(cols, kFp8Block))) {}
  Fp8Activation view() const { return {codes.data(), scales.data()}; }
};

// Copies of an operand of `bytes` bytes that a benchmark reads in turn: enough to pass through kColdBytes, more than the caches of the
// machines this runs on. Operands below kWarmBytes stay warm, as a small model's do, and the row says so.
inline constexpr size_t kColdBytes = size_t{192} << 20;
inline constexpr size_t kWarmBytes = size_t{2} << 20;
int num_copies(size_t bytes);

// GB/s that all threads together read from memory, measured once per run.
double read_ceiling();

enum class Operands { kWarm, kCold };

// Adds the row's figures: GB/s of the bytes one iteration must move, and their share of read_ceiling() where they come from memory; GFLOP/s
// where it computes any.
void report(benchmark::State& state, size_t bytes_per_iteration, double flop_per_iteration, Operands operands);

}  // namespace dsv4::bench
