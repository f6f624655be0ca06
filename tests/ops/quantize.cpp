#include "ops/quantize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "backend/cpu/ops.h"
#include "ops/weight.h"
#include "support/compare.h"
#include "support/matrices.h"

namespace dsv4 {
namespace {

struct Quantized {
  std::vector<uint8_t> codes, scales;
};

Quantized run(const std::vector<Bf16>& x, int num_rows, int dim) {
  Quantized result;
  result.codes.assign(x.size(), 0xab);
  result.scales.assign(static_cast<size_t>(num_rows) * ceil_div(dim, 128), 0xab);
  cpu::quantize({x.data(), result.codes.data(), result.scales.data(), num_rows, dim});
  return result;
}

// Spec 3.3 in double: s = 2^⌈log2(max(amax, 1e-4)/448)⌉, and the e4m3 number nearest to x/s (by the scalar codec, which has its own tests).
Quantized expected(const std::vector<Bf16>& x, int num_rows, int dim) {
  Quantized result;
  for (int row = 0; row < num_rows; ++row) {
    for (int begin = 0; begin < dim; begin += 128) {
      const int end = std::min(dim, begin + 128);
      double amax = 1e-4f;
      for (int k = begin; k < end; ++k) amax = std::max<double>(amax, std::fabs(to_float(x[static_cast<size_t>(row) * dim + k])));
      int exponent = -30;
      while (amax > std::ldexp(448.0, exponent)) ++exponent;
      result.scales.push_back(static_cast<uint8_t>(127 + exponent));
      for (int k = begin; k < end; ++k) {
        result.codes.push_back(
            float_to_e4m3(static_cast<float>(std::ldexp(static_cast<double>(to_float(x[static_cast<size_t>(row) * dim + k])), -exponent))));
      }
    }
  }
  return result;
}

void expect_quantized(const std::vector<Bf16>& x, int num_rows, int dim) {
  const Quantized actual = run(x, num_rows, dim), wanted = expected(x, num_rows, dim);
  EXPECT_TRUE(test::same_bytes(actual.scales, wanted.scales)) << num_rows << "×" << dim;
  EXPECT_TRUE(test::same_bytes(actual.codes, wanted.codes)) << num_rows << "×" << dim;
}

TEST(Quantize, RandomRowsOfAnyLength) {
  test::Random random(11);
  for (const int dim : {1, 7, 64, 127, 128, 129, 200, 256, 448, 4096}) {
    for (const int num_rows : {1, 3}) {
      for (const float stddev : {1e-6f, 1.0f, 3000.0f})
        expect_quantized(test::random_bf16(random, static_cast<size_t>(num_rows) * dim, stddev), num_rows, dim);
    }
  }
}

TEST(Quantize, EveryRatioAndSign) {
  // Blocks whose maximum is 448 (scale 1) and whose other elements run through every bf16 pattern: all roundings, ties and subnormals.
  std::vector<Bf16> x;
  for (uint32_t pattern = 0; pattern < 0x10000; ++pattern) {
    if (std::fabs(to_float(Bf16{static_cast<uint16_t>(pattern)})) > 448.0f || (pattern & 0x7fff) > 0x7f80) continue;
    if (x.size() % 128 == 0) x.push_back(to_bf16(448.0f));
    x.push_back(Bf16{static_cast<uint16_t>(pattern)});
  }
  while (x.size() % 128 != 0) x.push_back(to_bf16(448.0f));
  const Quantized result = run(x, 1, static_cast<int>(x.size()));
  for (const uint8_t scale : result.scales) ASSERT_EQ(scale, 127);
  for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(result.codes[i], float_to_e4m3(to_float(x[i]))) << to_float(x[i]);
}

TEST(Quantize, ZerosAndTinyBlocksUseTheFloor) {
  std::vector<Bf16> x(256, Bf16{0});
  x[3] = Bf16{0x8000};  // −0
  x[128] = to_bf16(1e-5f);
  const Quantized result = run(x, 1, 256);
  EXPECT_EQ(result.scales[0], 127 - 22);
  EXPECT_EQ(result.scales[1], 127 - 22);
  for (int i = 0; i < 128; ++i) EXPECT_EQ(result.codes[i], i == 3 ? 0x80 : 0x00) << i;
  EXPECT_EQ(result.codes[128], float_to_e4m3(to_float(x[128]) * 0x1p22f));
}

TEST(Quantize, MaximumAtAPowerOfTwoTimes448) {
  for (int exponent = -21; exponent <= 100; ++exponent) {
    std::vector<Bf16> x(128, Bf16{0});
    x[5] = to_bf16(std::ldexp(-448.0f, exponent));
    x[6] = to_bf16(std::ldexp(1.0f, exponent));
    const Quantized result = run(x, 1, 128);
    EXPECT_EQ(result.scales[0], 127 + exponent);
    EXPECT_EQ(result.codes[5], 0xfe);  // −448
    EXPECT_EQ(result.codes[6], 0x38);  // 1
    // The next bf16 above 448·2^e takes the next scale.
    x[5].bits += 1;
    EXPECT_EQ(run(x, 1, 128).scales[0], 127 + exponent + 1);
  }
}

TEST(Quantize, NanAndInfinityStayVisible) {
  std::vector<Bf16> x(256, to_bf16(1.0f));
  x[10] = Bf16{0x7fc0};
  x[130] = to_bf16(std::numeric_limits<float>::infinity());
  const Quantized result = run(x, 1, 256);
  EXPECT_TRUE(std::isnan(e4m3_to_float(result.codes[10])));
  EXPECT_TRUE(std::isnan(ue8m0_to_float(result.scales[1])));
}

TEST(Quantize, SameBytesForAnyThreadsAndRows) {
  test::Random random(12);
  const int num_rows = 100, dim = 1000;
  const auto x = test::random_bf16(random, static_cast<size_t>(num_rows) * dim);
  Quantized one, two;
  {
    const test::ScopedThreads threads(1);
    one = run(x, num_rows, dim);
  }
  {
    const test::ScopedThreads threads(2);
    two = run(x, num_rows, dim);
  }
  EXPECT_TRUE(test::same_bytes(one.codes, two.codes));
  EXPECT_TRUE(test::same_bytes(one.scales, two.scales));
  const std::vector<Bf16> row(x.begin() + 57 * dim, x.begin() + 58 * dim);
  EXPECT_TRUE(test::same_bytes(run(row, 1, dim).codes, std::vector<uint8_t>(one.codes.begin() + 57 * dim, one.codes.begin() + 58 * dim)));
}

}  // namespace
}  // namespace dsv4
