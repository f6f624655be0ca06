#include "ops/linear_bf16.h"

#include <gtest/gtest.h>

#include <vector>

#include "backend/cpu/ops.h"
#include "support/compare.h"
#include "support/matrices.h"

namespace dsv4 {
namespace {

std::vector<Bf16> run(const Bf16* x, const test::Bf16Matrix& weight, int num_tokens, float out_scale) {
  std::vector<Bf16> out(static_cast<size_t>(num_tokens) * weight.rows, Bf16{0x7fc0});
  cpu::linear_bf16({x, weight.view(), out.data(), num_tokens, out_scale});
  return out;
}

TEST(LinearBf16, MatchesTheFormula) {
  test::Random random(31);
  for (const auto& [num_tokens, rows, cols] :
       {std::tuple(1, 64, 512), std::tuple(5, 7, 100), std::tuple(66, 10, 33), std::tuple(2, 3, 1500)}) {
    const test::Bf16Matrix x(random, num_tokens, cols), weight(random, rows, cols);
    const auto out = run(x.data.data(), weight, num_tokens, 1.0f);
    for (int t = 0; t < num_tokens; ++t) {
      for (int o = 0; o < rows; ++o) {
        const test::Dot dot = test::dot_rows(x, t, weight, o);
        ASSERT_TRUE(test::bf16_rounds(out[static_cast<size_t>(t) * rows + o], dot.value, dot.slack)) << t << " " << o;
      }
    }
  }
}

TEST(LinearBf16, OutScaleIsAppliedAfterTheFirstRounding) {
  test::Random random(32);
  const float kappa = 0.011048543456039806f;
  const test::Bf16Matrix x(random, 9, 256), weight(random, 64, 256);
  const auto plain = run(x.data.data(), weight, 9, 1.0f);
  const auto scaled = run(x.data.data(), weight, 9, kappa);
  int two_roundings_differ = 0;
  for (size_t i = 0; i < plain.size(); ++i) {
    EXPECT_EQ(scaled[i].bits, to_bf16(to_float(plain[i]) * kappa).bits) << i;
    const double exact = test::dot_rows(x, static_cast<int>(i / 64), weight, static_cast<int>(i % 64)).value * kappa;
    if (to_bf16(static_cast<float>(exact)).bits != scaled[i].bits) ++two_roundings_differ;
  }
  EXPECT_GT(two_roundings_differ, 0) << "the data does not tell one rounding from two";
}

TEST(LinearBf16, SameBitsAloneOrInABatch) {
  test::Random random(33);
  const int num_tokens = 70, rows = 130, cols = 700;
  const test::Bf16Matrix x(random, num_tokens, cols), weight(random, rows, cols);
  const auto batch = run(x.data.data(), weight, num_tokens, 1.0f);
  for (const int t : {0, 5, 64, 69}) {
    const std::vector<Bf16> row(batch.begin() + static_cast<int64_t>(t) * rows, batch.begin() + static_cast<int64_t>(t + 1) * rows);
    EXPECT_TRUE(test::same_bytes(run(x.data.data() + static_cast<size_t>(t) * cols, weight, 1, 1.0f), row)) << t;
  }
}

}  // namespace
}  // namespace dsv4
