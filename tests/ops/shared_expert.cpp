#include "ops/shared_expert.h"

#include <gtest/gtest.h>

#include <vector>

#include "backend/cpu/ops.h"
#include "base/error.h"
#include "ops/experts.h"
#include "support/compare.h"
#include "support/matrices.h"

namespace dsv4 {
namespace {

struct Case {
  test::Fp8Rows x;
  test::Fp8Matrix w1, w2, w3;

  Case(test::Random& random, int num_tokens, int hidden_size, int intermediate_size)
      : x(random, num_tokens, hidden_size),
        w1(random, intermediate_size, hidden_size),
        w2(random, hidden_size, intermediate_size),
        w3(random, intermediate_size, hidden_size) {
    for (uint8_t& scale : x.scales) scale = static_cast<uint8_t>(scale - 5);
  }

  std::vector<Bf16> run(int first_token, int num_tokens, float limit) const {
    std::vector<Bf16> out(static_cast<size_t>(num_tokens) * w2.rows, Bf16{0x7fc0});
    cpu::shared_expert({x.view(first_token), w1.view(), w2.view(), w3.view(), out.data(), num_tokens, limit});
    return out;
  }
};

// The same steps through the single ops: two linears, the activation in double, quantize, a linear. Bit for bit.
TEST(SharedExpert, IsItsParts) {
  test::Random random(71);
  for (const auto& [num_tokens, hidden, intermediate] : {std::tuple(1, 256, 128), std::tuple(70, 130, 200), std::tuple(3, 512, 300)}) {
    const Case data(random, num_tokens, hidden, intermediate);
    const size_t h_count = static_cast<size_t>(num_tokens) * intermediate;
    std::vector<Bf16> gate(h_count), up(h_count), h(h_count), expected(static_cast<size_t>(num_tokens) * hidden);
    cpu::linear_fp8({data.x.view(), data.w1.view(), gate.data(), num_tokens});
    cpu::linear_fp8({data.x.view(), data.w3.view(), up.data(), num_tokens});
    int clamped = 0;
    for (size_t i = 0; i < h_count; ++i) {
      if (to_float(gate[i]) > 10.0f || std::fabs(to_float(up[i])) > 10.0f) ++clamped;
      const float g = std::min(to_float(gate[i]), 10.0f), u = std::clamp(to_float(up[i]), -10.0f, 10.0f);
      h[i] = to_bf16(g / (1.0f + std::exp(-g)) * u);
    }
    EXPECT_GT(clamped, 0);
    EXPECT_LT(static_cast<size_t>(clamped), h_count);
    std::vector<uint8_t> codes(h_count), scales(static_cast<size_t>(num_tokens) * ceil_div(intermediate, 128));
    cpu::quantize({h.data(), codes.data(), scales.data(), num_tokens, intermediate});
    cpu::linear_fp8({{codes.data(), scales.data()}, data.w2.view(), expected.data(), num_tokens});
    EXPECT_TRUE(test::same_bytes(data.run(0, num_tokens, 10.0f), expected));
  }
}

TEST(SharedExpert, IsARoutedExpertWithWeightOne) {
  test::Random random(72);
  const Case data(random, 5, 256, 130);
  const ExpertMatrix w1 = data.w1.expert(), w2 = data.w2.expert(), w3 = data.w3.expert();
  const std::vector<int32_t> experts(5, 0);
  const std::vector<float> weights(5, 1.0f);
  std::vector<Bf16> routed(5 * 256);
  cpu::experts({data.x.view(), experts.data(), weights.data(), &w1, &w2, &w3, ExpertFormat::kFp8, routed.data(), 5, 1, 1, 256, 130, 10.0f});
  EXPECT_TRUE(test::same_bytes(data.run(0, 5, 10.0f), routed));
}

TEST(SharedExpert, SameBitsAloneOrInABatch) {
  test::Random random(73);
  const Case data(random, 67, 200, 136);
  const auto batch = data.run(0, 67, 10.0f);
  for (const int t : {0, 63, 64, 66}) {
    EXPECT_TRUE(test::same_bytes(data.run(t, 1, 10.0f), std::vector<Bf16>(batch.begin() + t * 200, batch.begin() + (t + 1) * 200))) << t;
  }
}

TEST(SharedExpert, ShapesMustFit) {
  test::Random random(74);
  Case data(random, 1, 128, 128);
  data.w2 = test::Fp8Matrix(random, 128, 64);
  EXPECT_THROW(data.run(0, 1, 10.0f), Error);
}

}  // namespace
}  // namespace dsv4
