// Comparisons that say where and by how much arrays differ.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "base/dtype.h"

namespace dsv4::test {

// Half the distance between bf16 numbers around `value`: the error of one rounding to bf16.
inline double bf16_half_ulp(double value) {
  if (value == 0.0) return 0x1p-134;
  const int exponent = std::max(std::ilogb(value), -126);
  return std::ldexp(1.0, exponent - 8);
}

// Passes if `actual` is a correct bf16 rounding of some number within `slack` of `expected`: only the error of fp32 sums is forgiven.
inline ::testing::AssertionResult bf16_rounds(Bf16 actual, double expected, double slack) {
  const double difference = std::fabs(static_cast<double>(to_float(actual)) - expected);
  if (difference <= bf16_half_ulp(std::fabs(expected) + slack) + slack) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "got " << to_float(actual) << ", expected " << expected << " ± " << slack
                                       << " before the rounding";
}

// Passes if `actual` is within `slack` of `expected`.
inline ::testing::AssertionResult close_to(double actual, double expected, double slack) {
  if (std::fabs(actual - expected) <= slack) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "got " << actual << ", expected " << expected << " ± " << slack;
}

// Passes if the arrays have the same length and the same bytes; reports the first element that differs.
template <typename T>
::testing::AssertionResult same_bytes(std::span<const T> actual, std::span<const T> expected) {
  if (actual.size() != expected.size()) {
    return ::testing::AssertionFailure() << actual.size() << " elements, expected " << expected.size();
  }
  for (size_t i = 0; i < actual.size(); ++i) {
    if (std::memcmp(&actual[i], &expected[i], sizeof(T)) == 0) continue;
    uint64_t actual_bits = 0, expected_bits = 0;
    std::memcpy(&actual_bits, &actual[i], std::min(sizeof(T), sizeof(uint64_t)));
    std::memcpy(&expected_bits, &expected[i], std::min(sizeof(T), sizeof(uint64_t)));
    return ::testing::AssertionFailure() << fmt::format("element {} of {} has bits {:#x}, expected {:#x}", i, actual.size(), actual_bits,
                                                        expected_bits);
  }
  return ::testing::AssertionSuccess();
}

// The same for whole containers (std::vector, std::array) of one element type.
template <typename Container>
::testing::AssertionResult same_bytes(const Container& actual, const Container& expected) {
  using T = typename Container::value_type;
  return same_bytes(std::span<const T>(actual), std::span<const T>(expected));
}

}  // namespace dsv4::test
