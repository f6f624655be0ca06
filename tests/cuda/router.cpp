#include "ops/router.h"

#include "base/error.h"
#include "support/compare.h"
#include "support/gpu.h"
#include "support/matrices.h"

namespace dsv4 {
namespace {

struct Routing {
  std::vector<int32_t> experts;
  std::vector<float> weights;
};

struct RouterCase {
  RouterCase(int num_tokens_, int num_experts_, int hidden_size_, int num_selected_, bool hash_layer, uint64_t seed = 1)
      : num_tokens(num_tokens_), num_experts(num_experts_), hidden_size(hidden_size_), num_selected(num_selected_) {
    test::Random random(seed);
    x = test::random_bf16(random, static_cast<size_t>(num_tokens) * hidden_size);
    gate = test::random_bf16(random, static_cast<size_t>(num_experts) * hidden_size, 3.0f / std::sqrt(static_cast<float>(hidden_size)));
    if (hash_layer) {
      for (int i = 0; i < kVocab * num_selected; ++i) tid2eid.push_back((i * 7 + i / num_selected) % num_experts);
      for (int t = 0; t < num_tokens; ++t) token_ids.push_back(random.below(kVocab));
    } else {
      bias = test::random_floats(random, num_experts, 0.3f);
    }
  }

  Routing run(Backend& backend) const {
    const test::DeviceArray<Bf16> device_x(backend, x), device_gate(backend, gate);
    const test::DeviceArray<float> device_bias(backend, bias);
    const test::DeviceArray<int64_t> device_table(backend, tid2eid);
    const test::DeviceArray<int32_t> device_ids(backend, token_ids), device_positions(backend, positions);
    const test::DeviceArray<int32_t> experts(backend, static_cast<size_t>(num_tokens) * num_selected);
    const test::DeviceArray<float> weights(backend, static_cast<size_t>(num_tokens) * num_selected);
    backend.router({device_x.data(),
                    {device_gate.data(), num_experts, hidden_size},
                    bias.empty() ? nullptr : device_bias.data(),
                    tid2eid.empty() ? nullptr : device_table.data(),
                    token_ids.empty() ? nullptr : device_ids.data(),
                    experts.data(),
                    weights.data(),
                    num_tokens,
                    num_selected,
                    2.5f,
                    positions.empty() ? nullptr : device_positions.data()});
    return {experts.host(), weights.host()};
  }

  // σ + bias in double.
  double score(int token, int expert) const {
    double z = 0.0;
    for (int k = 0; k < hidden_size; ++k) {
      z += static_cast<double>(to_float(x[static_cast<size_t>(token) * hidden_size + k])) *
           to_float(gate[static_cast<size_t>(expert) * hidden_size + k]);
    }
    return std::sqrt(z > 20.0 ? z : std::log1p(std::exp(z))) + (bias.empty() ? 0.0 : bias[expert]);
  }

  static constexpr int kVocab = 50;
  int num_tokens, num_experts, hidden_size, num_selected;
  std::vector<Bf16> x, gate;
  std::vector<float> bias;
  std::vector<int64_t> tid2eid;
  std::vector<int32_t> token_ids, positions;
};

class RouterGpu : public test::GpuTest {
 protected:
  static void expect_matches_cpu(const RouterCase& input) {
    SCOPED_TRACE(::testing::Message() << input.num_tokens << " tokens of " << input.hidden_size << ", " << input.num_selected << " of "
                                      << input.num_experts << " experts");
    const Routing actual = input.run(gpu());
    const std::unique_ptr<Backend> cpu = make_cpu_backend();
    const Routing expected = input.run(*cpu);
    for (size_t i = 0; i < expected.experts.size(); ++i) {
      const int token = static_cast<int>(i) / input.num_selected;
      if (actual.experts[i] != expected.experts[i]) {  // only where the scores are as good as equal
        ASSERT_GE(actual.experts[i], 0) << token;
        ASSERT_LT(actual.experts[i], input.num_experts) << token;
        ASSERT_TRUE(input.tid2eid.empty()) << token;
        EXPECT_TRUE(test::close_to(input.score(token, actual.experts[i]), input.score(token, expected.experts[i]), 1e-5)) << token;
        continue;
      }
      EXPECT_TRUE(test::close_to(actual.weights[i], expected.weights[i], 2e-5 * std::fabs(expected.weights[i]))) << token;
    }
  }
};

TEST_F(RouterGpu, ScoredLayers) {
  for (const auto& [num_tokens, num_experts, hidden_size, num_selected] : {std::tuple{1, 256, 4096, 6},
                                                                           {150, 256, 4096, 6},
                                                                           {2, 384, 7168, 6},
                                                                           {33, 256, 256, 6},
                                                                           {300, 8, 256, 2},
                                                                           {5, 7, 128, 7},
                                                                           {3, 17, 384, 6},
                                                                           {4, 1, 128, 1},
                                                                           {9, 40, 512, 32},
                                                                           {3, 200, 1024, 8}}) {
    expect_matches_cpu(RouterCase(num_tokens, num_experts, hidden_size, num_selected, false));
  }
}

TEST_F(RouterGpu, HashLayers) {
  for (const auto& [num_tokens, num_experts, hidden_size, num_selected] :
       {std::tuple{1, 256, 4096, 6}, {65, 256, 512, 6}, {2, 384, 7168, 6}, {40, 8, 256, 2}}) {
    expect_matches_cpu(RouterCase(num_tokens, num_experts, hidden_size, num_selected, true));
  }
}

TEST_F(RouterGpu, NoTokens) {
  EXPECT_TRUE(RouterCase(0, 16, 256, 2, false).run(gpu()).experts.empty());
}

TEST_F(RouterGpu, TiesFavourTheLowerId) {
  RouterCase input(3, 64, 256, 6, false);
  std::fill(input.gate.begin(), input.gate.end(), Bf16{0});
  std::fill(input.bias.begin(), input.bias.end(), -1.0f);
  input.bias[40] = input.bias[63] = 0.5f;
  const Routing routing = input.run(gpu());
  for (int t = 0; t < 3; ++t) {
    EXPECT_EQ(std::vector<int32_t>(routing.experts.begin() + 6 * t, routing.experts.begin() + 6 * (t + 1)),
              (std::vector<int32_t>{40, 63, 0, 1, 2, 3}));
  }
  for (const float weight : routing.weights) EXPECT_NEAR(weight, 2.5 / 6, 1e-6);
}

TEST_F(RouterGpu, LargeAndSmallLogits) {
  RouterCase input(8, 32, 256, 6, false);
  for (size_t i = 0; i < input.gate.size(); ++i) input.gate[i] = to_bf16(to_float(input.gate[i]) * 20.0f);  // z of ±60 and more
  expect_matches_cpu(input);
}

TEST_F(RouterGpu, PaddingRowsGetNoExpert) {
  for (const bool hash_layer : {false, true}) {
    RouterCase input(20, 16, 256, 3, hash_layer);
    for (int t = 0; t < 20; ++t) input.positions.push_back(t % 3 == 1 ? -1 : t);
    if (hash_layer) input.token_ids[1] = -1;
    expect_matches_cpu(input);
    const Routing routing = input.run(gpu());
    for (int slot = 0; slot < 3; ++slot) {
      EXPECT_EQ(routing.experts[3 + slot], -1);
      EXPECT_EQ(routing.weights[3 + slot], 0.0f);
      EXPECT_GE(routing.experts[slot], 0);
    }
  }
}

TEST_F(RouterGpu, TokensAloneGiveTheSameBytes) {
  for (const auto& [num_tokens, num_experts, hidden_size] : {std::tuple{150, 256, 4096}, {300, 8, 256}, {20, 384, 7168}}) {
    const RouterCase input(num_tokens, num_experts, hidden_size, 6, false, 3);
    const Routing together = input.run(gpu());
    for (const int token : {0, 1, 8, 15, 16, num_tokens - 1}) {
      RouterCase alone = input;
      alone.num_tokens = 1;
      alone.x.assign(input.x.begin() + static_cast<int64_t>(token) * hidden_size,
                     input.x.begin() + static_cast<int64_t>(token + 1) * hidden_size);
      const Routing routing = alone.run(gpu());
      EXPECT_TRUE(
          test::same_bytes(std::span<const int32_t>(routing.experts), std::span<const int32_t>(together.experts).subspan(6 * token, 6)));
      EXPECT_TRUE(
          test::same_bytes(std::span<const float>(routing.weights), std::span<const float>(together.weights).subspan(6 * token, 6)));
    }
  }
}

TEST_F(RouterGpu, RefusesWhatItDoesNotSupport) {
  EXPECT_THROW(RouterCase(1, 385, 256, 6, false).run(gpu()), Error);
  EXPECT_THROW(RouterCase(1, 8, 100, 6, false).run(gpu()), Error);
  EXPECT_THROW(RouterCase(1, 4, 256, 6, false).run(gpu()), Error);
}

}  // namespace
}  // namespace dsv4
