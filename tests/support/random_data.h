// Deterministic random inputs for tests: the same seed gives the same data on every platform.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/dtype.h"

namespace dsv4::test {

// splitmix64: a full-period counter with a strong mixing step.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t next();
  // Uniform in [0, 1).
  double unit();
  float uniform(float low, float high);
  // Standard normal (Box–Muller).
  float normal();
  // Uniform in [0, bound); bound > 0.
  int below(int bound);

 private:
  uint64_t state_;
};

// `count` normal values of the given standard deviation.
std::vector<float> random_floats(Random& random, size_t count, float stddev = 1.0f);
std::vector<Bf16> random_bf16(Random& random, size_t count, float stddev = 1.0f);

// e4m3 codes of normal values (never NaN), ±0 and subnormals included.
std::vector<uint8_t> random_e4m3(Random& random, size_t count, float stddev = 16.0f);

// Uniform bytes: every pair of e2m1 codes.
std::vector<uint8_t> random_bytes(Random& random, size_t count);

// ue8m0 codes of 2^low … 2^high, both included.
std::vector<uint8_t> random_ue8m0(Random& random, size_t count, int low_exponent = -8, int high_exponent = 2);

}  // namespace dsv4::test
