#include "ops/random_weights.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "backend/cpu/random.h"
#include "base/dtype.h"

namespace dsv4 {
namespace {

constexpr size_t kCount = 1 << 16;

std::vector<uint8_t> random_bytes(RandomWords words) {
  std::vector<uint8_t> bytes(kCount);
  cpu::fill_random(bytes.data(), bytes.size(), words, 9);
  return bytes;
}

template <typename Value>
double deviation(const std::vector<uint8_t>& bytes, Value&& value) {
  double sum = 0.0;
  for (uint8_t byte : bytes) sum += std::pow(value(byte), 2);
  return std::sqrt(sum / static_cast<double>(bytes.size()));
}

TEST(RandomWeights, Fp8CodesAreFiniteAndOfTheirDeviation) {
  const auto value = [](uint8_t code) {
    const int exponent = code >> 3 & 15;
    return std::ldexp(1.0 + (code & 7) / 8.0, exponent - 7);
  };
  const std::vector<uint8_t> codes = random_bytes(kRandomFp8Codes);
  int num_negative = 0;
  for (uint8_t code : codes) {
    EXPECT_NE(code & 0x7f, 0x7f);
    num_negative += code >> 7;
  }
  EXPECT_NEAR(num_negative, kCount / 2, kCount / 50);
  EXPECT_NEAR(deviation(codes, value), kRandomFp8Deviation, 0.2);
}

TEST(RandomWeights, Fp4CodesOfTheirDeviation) {
  constexpr double kValues[] = {0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0};
  EXPECT_NEAR(deviation(random_bytes(kRandomFp4Codes), [&](uint8_t pair) { return kValues[pair & 7]; }), kRandomFp4Deviation, 0.1);
}

TEST(RandomWeights, ScaledCodesHaveOneOverTheRootOfTheColumns) {
  for (int cols : {128, 1024, 2048, 4096, 7168}) {
    const RandomWords words = random_scales(cols, kRandomFp8Deviation);
    std::vector<uint8_t> scales = random_bytes(words);
    const double scale = deviation(scales, [](uint8_t code) { return std::ldexp(1.0, code - 127); });
    const double ratio = scale * kRandomFp8Deviation * std::sqrt(static_cast<double>(cols));
    EXPECT_GT(ratio, 0.69) << cols;
    EXPECT_LT(ratio, 1.45) << cols;
  }
}

TEST(RandomWeights, Bf16ValuesOfTheDeviationAskedFor) {
  for (double wanted : {1.0, 0.3, 0.011}) {
    std::vector<uint16_t> bits(kCount);
    cpu::fill_random(bits.data(), bits.size() * 2, random_bf16_values(wanted), 4);
    double sum = 0.0;
    for (uint16_t value : bits) sum += std::pow(static_cast<double>(to_float(Bf16{value})), 2);
    const double ratio = std::sqrt(sum / kCount) / wanted;
    EXPECT_GT(ratio, 0.69) << wanted;
    EXPECT_LT(ratio, 1.45) << wanted;
  }
}

// The finaliser written out for one word; what is beyond the last whole word is filled too, and nothing behind it.
TEST(RandomWeights, FillsToTheLastByte) {
  const auto word = [](uint64_t idx) {
    uint64_t z = 9 * 0xd1342543de82ef95u + (idx + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  };
  alignas(8) uint8_t bytes[24] = {};
  cpu::fill_random(bytes, 19, {~uint64_t{0}, 0}, 9);
  for (uint64_t i = 0; i < 3; ++i) {
    uint8_t expected[8];
    const uint64_t value = word(i);
    std::memcpy(expected, &value, 8);
    for (size_t j = 0; j < 8; ++j) EXPECT_EQ(bytes[8 * i + j], 8 * i + j < 19 ? expected[j] : 0) << i << " " << j;
  }
}

}  // namespace
}  // namespace dsv4
