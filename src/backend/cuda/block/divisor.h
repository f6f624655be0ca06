// Division by a number that the host knows, as a multiplication.
#pragma once

#include <cstdint>

namespace dsv4::cuda {

// n / value for 0 ≤ n < 2^31 and value ≥ 1: the product with ⌊2^(31+s)/value⌋ + 1, s = ⌈log2 value⌉, is off by less than 1/value.
struct Divisor {
  uint32_t value = 1;
  uint32_t magic = 0x80000001u;
  int shift = 31;

  Divisor() = default;
  explicit Divisor(int divisor) : value(static_cast<uint32_t>(divisor)) {
    while ((uint64_t{1} << (shift - 31)) < value) ++shift;
    magic = static_cast<uint32_t>((uint64_t{1} << shift) / value + 1);
  }
  __device__ __forceinline__ int quotient(int n) const {
    return static_cast<int>(static_cast<uint64_t>(static_cast<uint32_t>(n)) * magic >> shift);
  }
  __device__ __forceinline__ int remainder(int n) const { return n - quotient(n) * static_cast<int>(value); }
};

}  // namespace dsv4::cuda
