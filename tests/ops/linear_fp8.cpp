#include "ops/linear_fp8.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "backend/cpu/ops.h"
#include "support/compare.h"
#include "support/matrices.h"

namespace dsv4 {
namespace {

std::vector<Bf16> run(const test::Fp8Rows& x, const test::Fp8Matrix& weight, int first_row, int num_tokens) {
  std::vector<Bf16> out(static_cast<size_t>(num_tokens) * weight.rows, Bf16{0x7fc0});
  cpu::linear_fp8({x.view(first_row), weight.view(), out.data(), num_tokens});
  return out;
}

class LinearFp8Shape : public ::testing::TestWithParam<std::tuple<int, int, int>> {};

TEST_P(LinearFp8Shape, MatchesTheFormula) {
  const auto [num_tokens, rows, cols] = GetParam();
  test::Random random(static_cast<uint64_t>(num_tokens * 1000003 + rows * 1009 + cols));
  const test::Fp8Rows x(random, num_tokens, cols);
  const test::Fp8Matrix weight(random, rows, cols);
  const auto out = run(x, weight, 0, num_tokens);
  for (int t = 0; t < num_tokens; ++t) {
    for (int o = 0; o < rows; ++o) {
      const test::Dot dot = test::dot_rows(x, t, weight, o);
      ASSERT_TRUE(test::bf16_rounds(out[static_cast<size_t>(t) * rows + o], dot.value, dot.slack)) << "token " << t << " output " << o;
    }
  }
}

// Tokens around the tile and block sizes, rows across scale blocks and not a multiple of the tile, columns with a short last block and
// across chunks.
INSTANTIATE_TEST_SUITE_P(Shapes, LinearFp8Shape,
                         ::testing::Values(std::tuple(1, 1, 1), std::tuple(1, 5, 128), std::tuple(2, 130, 256), std::tuple(3, 7, 200),
                                           std::tuple(4, 4, 64), std::tuple(5, 257, 384), std::tuple(67, 9, 129), std::tuple(1, 6, 1152),
                                           std::tuple(6, 3, 2100), std::tuple(129, 12, 128)));

TEST(LinearFp8, ExactWhereTheSumsAre) {
  // Small integers: every fp32 sum is exact, so the result is the correctly rounded product.
  test::Random random(21);
  const int rows = 33, cols = 256;
  test::Fp8Rows x(random, 3, cols);
  test::Fp8Matrix weight(random, rows, cols);
  for (auto& code : x.codes) code = float_to_e4m3(static_cast<float>(random.below(17) - 8));
  for (auto& code : weight.codes) code = float_to_e4m3(static_cast<float>(random.below(17) - 8));
  const auto out = run(x, weight, 0, 3);
  for (int t = 0; t < 3; ++t) {
    for (int o = 0; o < rows; ++o) {
      const double value = test::dot_rows(x, t, weight, o).value;
      EXPECT_EQ(out[static_cast<size_t>(t) * rows + o].bits, to_bf16(static_cast<float>(value)).bits);
    }
  }
}

TEST(LinearFp8, SameBitsAloneOrInABatchAndForAnyThreads) {
  test::Random random(22);
  const int num_tokens = 71, rows = 301, cols = 1300;
  const test::Fp8Rows x(random, num_tokens, cols);
  const test::Fp8Matrix weight(random, rows, cols);
  std::vector<Bf16> one, two;
  {
    const test::ScopedThreads threads(1);
    one = run(x, weight, 0, num_tokens);
  }
  {
    const test::ScopedThreads threads(3);
    two = run(x, weight, 0, num_tokens);
  }
  EXPECT_TRUE(test::same_bytes(one, two));
  for (const int t : {0, 3, 63, 64, 70}) {
    const std::vector<Bf16> in_batch(one.begin() + static_cast<int64_t>(t) * rows, one.begin() + static_cast<int64_t>(t + 1) * rows);
    EXPECT_TRUE(test::same_bytes(run(x, weight, t, 1), in_batch)) << t;
  }
}

TEST(LinearFp8, NanReachesItsOutputsOnly) {
  test::Random random(23);
  test::Fp8Rows x(random, 2, 256);
  test::Fp8Matrix weight(random, 200, 256);
  weight.codes[3 * 256 + 200] = 0xff;
  weight.scales[1 * 2 + 0] = 255;  // rows 128…199
  const auto out = run(x, weight, 0, 2);
  for (int t = 0; t < 2; ++t) {
    for (int o = 0; o < 200; ++o) EXPECT_EQ(std::isnan(to_float(out[t * 200 + o])), o == 3 || o >= 128) << t << " " << o;
  }
}

TEST(LinearFp8, ZeroTokens) {
  test::Random random(24);
  const test::Fp8Rows x(random, 1, 128);
  const test::Fp8Matrix weight(random, 4, 128);
  Bf16 untouched{0x1234};
  cpu::linear_fp8({x.view(), weight.view(), &untouched, 0});
  EXPECT_EQ(untouched.bits, 0x1234);
}

}  // namespace
}  // namespace dsv4
