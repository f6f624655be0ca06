// How far arrays are from bit-equal, for results that share all roundings with the CPU but a function value or an order of summation.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstring>
#include <vector>

namespace dsv4::test {

// Elements whose bytes differ; −1 for different lengths.
template <typename T>
ptrdiff_t count_differences(const std::vector<T>& a, const std::vector<T>& b) {
  if (a.size() != b.size()) return -1;
  ptrdiff_t count = 0;
  for (size_t i = 0; i < a.size(); ++i) count += std::memcmp(&a[i], &b[i], sizeof(T)) != 0 ? 1 : 0;
  return count;
}

// Passes if at most one element in `rarity` differs (and one more, for small arrays).
template <typename T>
::testing::AssertionResult differ_rarely(const std::vector<T>& actual, const std::vector<T>& expected, size_t rarity) {
  const ptrdiff_t differences = count_differences(actual, expected);
  const auto allowed = static_cast<ptrdiff_t>(1 + expected.size() / rarity);
  if (differences >= 0 && differences <= allowed) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << differences << " of " << expected.size() << " elements differ (" << actual.size()
                                       << " given), expected at most " << allowed;
}

}  // namespace dsv4::test
