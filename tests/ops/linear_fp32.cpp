#include "ops/linear_fp32.h"

#include <gtest/gtest.h>

#include <vector>

#include "backend/cpu/ops.h"
#include "support/compare.h"
#include "support/matrices.h"

namespace dsv4 {
namespace {

std::vector<float> run(const Bf16* x, const test::Bf16Matrix& weight, int num_tokens) {
  std::vector<float> out(static_cast<size_t>(num_tokens) * weight.rows, -77.0f);
  cpu::linear_fp32({x, weight.view(), out.data(), num_tokens});
  return out;
}

TEST(LinearFp32, MatchesTheFormula) {
  test::Random random(41);
  for (const auto& [num_tokens, rows, cols] :
       {std::tuple(1, 256, 512), std::tuple(3, 5, 1), std::tuple(65, 6, 130), std::tuple(2, 9, 2049)}) {
    const test::Bf16Matrix x(random, num_tokens, cols), weight(random, rows, cols);
    const auto out = run(x.data.data(), weight, num_tokens);
    for (int t = 0; t < num_tokens; ++t) {
      for (int o = 0; o < rows; ++o) {
        const test::Dot dot = test::dot_rows(x, t, weight, o);
        ASSERT_TRUE(test::close_to(out[static_cast<size_t>(t) * rows + o], dot.value, dot.slack)) << t << " " << o;
      }
    }
  }
}

TEST(LinearFp32, OutputIsNotRoundedToBf16) {
  // 1 + 2^-12 needs 12 mantissa bits.
  test::Random random(42);
  test::Bf16Matrix x(random, 1, 2), weight(random, 1, 2);
  x.data = {to_bf16(1.0f), to_bf16(0x1p-12f)};
  weight.data = {to_bf16(1.0f), to_bf16(1.0f)};
  EXPECT_EQ(run(x.data.data(), weight, 1)[0], 1.0f + 0x1p-12f);
}

TEST(LinearFp32, SameBitsAloneOrInABatchAndForAnyThreads) {
  test::Random random(43);
  const int num_tokens = 70, rows = 514, cols = 900;
  const test::Bf16Matrix x(random, num_tokens, cols), weight(random, rows, cols);
  std::vector<float> one, two;
  {
    const test::ScopedThreads threads(1);
    one = run(x.data.data(), weight, num_tokens);
  }
  {
    const test::ScopedThreads threads(2);
    two = run(x.data.data(), weight, num_tokens);
  }
  EXPECT_TRUE(test::same_bytes(one, two));
  for (const int t : {0, 66, 69}) {
    const std::vector<float> row(one.begin() + static_cast<int64_t>(t) * rows, one.begin() + static_cast<int64_t>(t + 1) * rows);
    EXPECT_TRUE(test::same_bytes(run(x.data.data() + static_cast<size_t>(t) * cols, weight, 1), row)) << t;
  }
}

}  // namespace
}  // namespace dsv4
