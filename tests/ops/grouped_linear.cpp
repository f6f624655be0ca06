#include "ops/grouped_linear.h"

#include <gtest/gtest.h>

#include <vector>

#include "backend/cpu/ops.h"
#include "base/error.h"
#include "support/compare.h"
#include "support/matrices.h"

namespace dsv4 {
namespace {

std::vector<Bf16> run(const Bf16* x, const test::Fp8Matrix& weight, int num_tokens, int num_groups) {
  std::vector<Bf16> out(static_cast<size_t>(num_tokens) * weight.rows, Bf16{0x7fc0});
  cpu::grouped_linear({x, weight.view(), out.data(), num_tokens, num_groups});
  return out;
}

TEST(GroupedLinear, EachRowBlockReadsItsOwnGroup) {
  test::Random random(51);
  // Groups of 6 rows: a row tile of 4 must not run from one group into the next.
  for (const auto& [num_tokens, num_groups, group_rows, cols] :
       {std::tuple(1, 8, 64, 256), std::tuple(5, 3, 6, 200), std::tuple(66, 2, 128, 128), std::tuple(2, 1, 5, 1100)}) {
    const test::Bf16Matrix x(random, num_tokens * num_groups, cols);
    const test::Fp8Matrix weight(random, num_groups * group_rows, cols);
    const auto out = run(x.data.data(), weight, num_tokens, num_groups);
    for (int t = 0; t < num_tokens; ++t) {
      for (int o = 0; o < weight.rows; ++o) {
        const test::Dot dot = test::dot_rows(x, t * num_groups + o / group_rows, weight, o);
        ASSERT_TRUE(test::bf16_rounds(out[static_cast<size_t>(t) * weight.rows + o], dot.value, dot.slack)) << t << " " << o;
      }
    }
  }
}

TEST(GroupedLinear, ActivationsAreNotQuantised) {
  // 257/256 has more mantissa bits than e4m3.
  test::Random random(52);
  test::Fp8Matrix weight(random, 1, 128);
  std::fill(weight.codes.begin(), weight.codes.end(), uint8_t{0});
  weight.codes[7] = float_to_e4m3(1.0f);
  weight.scales[0] = 127;
  std::vector<Bf16> x(128, Bf16{0});
  x[7] = to_bf16(1.0f + 0x1p-7f);
  EXPECT_EQ(run(x.data(), weight, 1, 1)[0].bits, x[7].bits);
}

TEST(GroupedLinear, SameBitsAloneOrInABatchAndForAnyThreads) {
  test::Random random(53);
  const int num_tokens = 67, num_groups = 4, cols = 300, rows = 4 * 33;
  const test::Bf16Matrix x(random, num_tokens * num_groups, cols);
  const test::Fp8Matrix weight(random, rows, cols);
  std::vector<Bf16> one, two;
  {
    const test::ScopedThreads threads(1);
    one = run(x.data.data(), weight, num_tokens, num_groups);
  }
  {
    const test::ScopedThreads threads(2);
    two = run(x.data.data(), weight, num_tokens, num_groups);
  }
  EXPECT_TRUE(test::same_bytes(one, two));
  for (const int t : {0, 64, 66}) {
    const std::vector<Bf16> row(one.begin() + static_cast<int64_t>(t) * rows, one.begin() + static_cast<int64_t>(t + 1) * rows);
    EXPECT_TRUE(test::same_bytes(run(x.data.data() + static_cast<size_t>(t) * num_groups * cols, weight, 1, num_groups), row)) << t;
  }
}

TEST(GroupedLinear, RowsMustDivide) {
  test::Random random(54);
  const test::Fp8Matrix weight(random, 10, 128);
  const std::vector<Bf16> x(128 * 3, Bf16{0});
  EXPECT_THROW(run(x.data(), weight, 1, 3), Error);
}

}  // namespace
}  // namespace dsv4
