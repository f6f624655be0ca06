#include "ops/mhc_head.h"

#include <gtest/gtest.h>

#include "backend/cpu/ops.h"
#include "base/error.h"
#include "support/compare.h"
#include "support/random_data.h"

namespace dsv4 {
namespace {

TEST(MhcHead, MatchesDouble) {
  test::Random random(1);
  for (const auto& [hc, dim] : {std::pair{4, 256}, {4, 50}, {1, 64}, {8, 32}}) {
    const int num_tokens = 3, width = hc * dim;
    const std::vector<Bf16> streams = test::random_bf16(random, num_tokens * width, 2.0f);
    const std::vector<float> fn = test::random_floats(random, hc * width, 0.1f);
    const std::vector<float> base = test::random_floats(random, hc);
    const float scale = 1.7f;
    std::vector<Bf16> x(num_tokens * dim);
    cpu::mhc_head({streams.data(), fn.data(), base.data(), &scale, x.data(), num_tokens, hc, dim, 1e-6f, 1e-3f});
    for (int t = 0; t < num_tokens; ++t) {
      const Bf16* v = streams.data() + t * width;
      double square_sum = 0.0;
      for (int k = 0; k < width; ++k) square_sum += static_cast<double>(to_float(v[k])) * to_float(v[k]);
      std::vector<double> pre(hc, 0.0);
      for (int h = 0; h < hc; ++h) {
        for (int k = 0; k < width; ++k) pre[h] += static_cast<double>(fn[h * width + k]) * to_float(v[k]);
        const double m = pre[h] / std::sqrt(square_sum / width + 1e-6);
        pre[h] = 1.0 / (1.0 + std::exp(-(m * scale + base[h]))) + 1e-3;
      }
      for (int k = 0; k < dim; ++k) {
        double expected = 0.0, magnitude = 0.0;
        for (int h = 0; h < hc; ++h) {
          expected += pre[h] * to_float(v[h * dim + k]);
          magnitude += std::fabs(pre[h] * to_float(v[h * dim + k]));
        }
        EXPECT_TRUE(test::bf16_rounds(x[t * dim + k], expected, 4e-6 * magnitude)) << "token " << t << ", element " << k;
      }
    }
  }
}

TEST(MhcHead, RefusesTooManyStreams) {
  MhcHeadParams params{};
  params.hc_mult = 9;
  EXPECT_THROW(cpu::mhc_head(params), Error);
}

}  // namespace
}  // namespace dsv4
