#include "ops/mhc_post.h"

#include <gtest/gtest.h>

#include "backend/cpu/ops.h"
#include "support/compare.h"
#include "support/random_data.h"

namespace dsv4 {
namespace {

TEST(MhcPost, MatchesDouble) {
  test::Random random(1);
  for (const auto& [hc, dim] : {std::pair{4, 256}, {4, 33}, {1, 64}, {8, 40}}) {
    const int num_tokens = 3;
    const std::vector<Bf16> y = test::random_bf16(random, num_tokens * dim);
    const std::vector<float> post = test::random_floats(random, num_tokens * hc);
    const std::vector<float> comb = test::random_floats(random, num_tokens * hc * hc);
    const std::vector<Bf16> old_streams = test::random_bf16(random, num_tokens * hc * dim);
    std::vector<Bf16> streams = old_streams;
    cpu::mhc_post({y.data(), post.data(), comb.data(), streams.data(), num_tokens, hc, dim});
    for (int t = 0; t < num_tokens; ++t) {
      for (int j = 0; j < hc; ++j) {
        for (int k = 0; k < dim; ++k) {
          double expected = static_cast<double>(post[t * hc + j]) * to_float(y[t * dim + k]);
          double magnitude = std::fabs(expected);
          for (int i = 0; i < hc; ++i) {
            const double term = static_cast<double>(comb[(t * hc + i) * hc + j]) * to_float(old_streams[(t * hc + i) * dim + k]);
            expected += term;
            magnitude += std::fabs(term);
          }
          EXPECT_TRUE(test::bf16_rounds(streams[(t * hc + j) * dim + k], expected, 5e-7 * magnitude)) << t << " " << j << " " << k;
        }
      }
    }
  }
}

TEST(MhcPost, SumsOverTheFirstIndexOfComb) {
  // Only comb[0][1] is set: the old stream 0 goes to the new stream 1, and nothing goes anywhere else.
  std::vector<float> comb(16, 0.0f);
  comb[0 * 4 + 1] = 1.0f;
  const std::vector<float> post(4, 0.0f);
  const std::vector<Bf16> y = {to_bf16(100.0f)};
  std::vector<Bf16> streams = {to_bf16(1.0f), to_bf16(2.0f), to_bf16(3.0f), to_bf16(4.0f)};
  cpu::mhc_post({y.data(), post.data(), comb.data(), streams.data(), 1, 4, 1});
  EXPECT_EQ(to_float(streams[0]), 0.0f);
  EXPECT_EQ(to_float(streams[1]), 1.0f);
  EXPECT_EQ(to_float(streams[2]), 0.0f);
  EXPECT_EQ(to_float(streams[3]), 0.0f);
}

}  // namespace
}  // namespace dsv4
