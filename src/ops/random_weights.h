// Random weights for benchmarks of models without a checkpoint: words of random bits in which a mask leaves what may vary and a base adds
// the rest. Plain C++: kernels include this too.
#pragma once

#include <cmath>
#include <cstdint>

#include "ops/weight.h"

namespace dsv4 {

// Eight bytes of elements: (random & mask) + base, where no sum carries from one element into the next.
struct RandomWords {
  uint64_t mask;
  uint64_t base;
};

// The word at `word_idx` of a stream named `seed` (the finaliser of SplitMix64 over a Weyl sequence).
constexpr uint64_t random_word(RandomWords words, uint64_t seed, uint64_t word_idx) {
  uint64_t z = seed * 0xd1342543de82ef95u + (word_idx + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return ((z ^ (z >> 31)) & words.mask) + words.base;
}

constexpr uint64_t repeat_byte(uint8_t byte) {
  return byte * 0x0101010101010101u;
}

// e4m3 codes of exponents −3 … 4, both signs; their standard deviation is about 9.7.
inline constexpr RandomWords kRandomFp8Codes = {repeat_byte(0xbf), repeat_byte(0x20)};
inline constexpr double kRandomFp8Deviation = 9.7;

// Pairs of e2m1 codes, all sixteen of them; their standard deviation is about 2.9.
inline constexpr RandomWords kRandomFp4Codes = {~uint64_t{0}, 0};
inline constexpr double kRandomFp4Deviation = 2.9;

// ue8m0 scales, two neighbouring values, for codes of that deviation in a matrix of `cols` columns: weights get a standard deviation of
// about 1/√cols.
inline RandomWords random_scales(int cols, double code_deviation) {
  const int exponent = static_cast<int>(std::lround(-std::log2(code_deviation * std::sqrt(static_cast<double>(cols)) * 1.58)));
  return {repeat_byte(1), repeat_byte(static_cast<uint8_t>(127 + exponent))};
}

// bf16 values of eight exponents, both signs; their standard deviation is `deviation` within a factor of √2.
inline RandomWords random_bf16_values(double deviation) {
  const int exponent = static_cast<int>(std::lround(std::log2(deviation / 79.8)));
  return {0x83ff83ff83ff83ffu, static_cast<uint64_t>(127 + exponent) * 0x0080008000800080u};
}

}  // namespace dsv4
