#include "ops/router.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "backend/cpu/ops.h"
#include "base/error.h"
#include "support/compare.h"
#include "support/matrices.h"

namespace dsv4 {
namespace {

struct Routing {
  std::vector<int32_t> experts;
  std::vector<float> weights;
};

Routing run(const test::Bf16Matrix& x, const test::Bf16Matrix& gate, const float* bias, const int64_t* tid2eid, const int32_t* token_ids,
            int num_selected, float factor, int first_token = 0, int num_tokens = -1) {
  if (num_tokens < 0) num_tokens = x.rows;
  Routing routing;
  routing.experts.assign(static_cast<size_t>(num_tokens) * num_selected, -1);
  routing.weights.assign(routing.experts.size(), -1.0f);
  cpu::router({x.data.data() + static_cast<size_t>(first_token) * x.cols, gate.view(), bias, tid2eid, token_ids, routing.experts.data(),
               routing.weights.data(), num_tokens, num_selected, factor});
  return routing;
}

// σ of spec 2.11 step 1, in double.
double score(double z) {
  return std::sqrt(z > 20.0 ? z : std::log1p(std::exp(z)));
}

std::vector<double> scores_of(const test::Bf16Matrix& x, int t, const test::Bf16Matrix& gate) {
  std::vector<double> scores(gate.rows);
  for (int e = 0; e < gate.rows; ++e) scores[e] = score(test::dot_rows(x, t, gate, e).value);
  return scores;
}

TEST(Router, ScoredLayersMatchTheFormula) {
  test::Random random(81);
  for (const auto& [num_tokens, num_experts, num_selected, cols] :
       {std::tuple(5, 256, 6, 256), std::tuple(70, 7, 2, 100), std::tuple(2, 17, 6, 64), std::tuple(1, 1, 1, 32),
        std::tuple(3, 6, 6, 130)}) {
    const test::Bf16Matrix x(random, num_tokens, cols), gate(random, num_experts, cols, 0.1f);
    const auto bias = test::random_floats(random, num_experts, 0.5f);
    const Routing routing = run(x, gate, bias.data(), nullptr, nullptr, num_selected, 1.5f);
    for (int t = 0; t < num_tokens; ++t) {
      const auto scores = scores_of(x, t, gate);
      std::vector<int32_t> order(num_experts);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return scores[a] + bias[a] > scores[b] + bias[b]; });
      double sum = 0.0;
      for (int slot = 0; slot < num_selected; ++slot) sum += scores[order[slot]];
      for (int slot = 0; slot < num_selected; ++slot) {
        const size_t i = static_cast<size_t>(t) * num_selected + slot;
        EXPECT_EQ(routing.experts[i], order[slot]) << t << " " << slot;
        EXPECT_TRUE(test::close_to(routing.weights[i], scores[order[slot]] / sum * 1.5, 1e-5)) << t << " " << slot;
      }
    }
  }
}

TEST(Router, TiesFavourTheLowerId) {
  test::Random random(82);
  const test::Bf16Matrix x(random, 2, 64);
  test::Bf16Matrix gate(random, 13, 64);
  for (Bf16& value : gate.data) value = Bf16{0};  // every z is 0: σ = sqrt(log 2) everywhere
  const std::vector<float> bias(13, 0.25f);
  const Routing routing = run(x, gate, bias.data(), nullptr, nullptr, 6, 2.5f);
  EXPECT_EQ(routing.experts, (std::vector<int32_t>{0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5}));
  for (const float weight : routing.weights) EXPECT_NEAR(weight, 2.5 / 6, 1e-6);
}

TEST(Router, BiasChangesTheChoiceButNotTheWeights) {
  test::Random random(83);
  const test::Bf16Matrix x(random, 1, 128), gate(random, 8, 128, 0.1f);
  const std::vector<float> zero(8, 0.0f);
  std::vector<float> bias(8, 0.0f);
  const auto scores = scores_of(x, 0, gate);
  const Routing plain = run(x, gate, zero.data(), nullptr, nullptr, 2, 1.0f);
  const int worst = static_cast<int>(std::min_element(scores.begin(), scores.end()) - scores.begin());
  bias[worst] = 100.0f;
  const Routing biased = run(x, gate, bias.data(), nullptr, nullptr, 2, 1.0f);
  EXPECT_EQ(biased.experts[0], worst);
  EXPECT_EQ(biased.experts[1], plain.experts[0]);
  const double sum = scores[worst] + scores[plain.experts[0]];
  EXPECT_TRUE(test::close_to(biased.weights[0], scores[worst] / sum, 1e-6));
  EXPECT_TRUE(test::close_to(biased.weights[1], scores[plain.experts[0]] / sum, 1e-6));
  // A bias that is the same for all changes nothing at all.
  const std::vector<float> constant(8, 3.0f);
  const Routing same = run(x, gate, constant.data(), nullptr, nullptr, 2, 1.0f);
  EXPECT_EQ(same.experts, plain.experts);
  EXPECT_EQ(same.weights, plain.weights);
}

TEST(Router, PaddingRowsGetNoExpert) {
  test::Random random(88);
  const int num_tokens = 4, num_experts = 9, num_selected = 3;
  const test::Bf16Matrix x(random, num_tokens, 96), gate(random, num_experts, 96, 0.1f);
  const std::vector<int64_t> tid2eid(20 * num_selected, 5);
  const auto bias = test::random_floats(random, num_experts, 0.5f);
  const std::vector<int32_t> positions = {7, -1, 0, -1}, token_ids = {19, -1, 0, 20};  // ids of padding are not looked at
  for (const bool hash_layer : {false, true}) {
    const float* biases = hash_layer ? nullptr : bias.data();
    const int64_t* table = hash_layer ? tid2eid.data() : nullptr;
    Routing routing{std::vector<int32_t>(num_tokens * num_selected, 99), std::vector<float>(num_tokens * num_selected, 99.0f)};
    cpu::router({x.data.data(), gate.view(), biases, table, token_ids.data(), routing.experts.data(), routing.weights.data(), num_tokens,
                 num_selected, 1.5f, positions.data()});
    for (const int t : {0, 2}) {
      const Routing alone = run(x, gate, biases, table, token_ids.data() + t, num_selected, 1.5f, t, 1);
      for (int slot = 0; slot < num_selected; ++slot) {
        EXPECT_EQ(routing.experts[t * num_selected + slot], alone.experts[slot]);
        EXPECT_EQ(routing.weights[t * num_selected + slot], alone.weights[slot]);
        EXPECT_EQ(routing.experts[(t + 1) * num_selected + slot], -1);
        EXPECT_EQ(routing.weights[(t + 1) * num_selected + slot], 0.0f);
      }
    }
  }
}

TEST(Router, HashLayersTakeTheRowOfTheToken) {
  test::Random random(84);
  const int num_tokens = 4, num_experts = 9, num_selected = 3, vocab_size = 20;
  const test::Bf16Matrix x(random, num_tokens, 96), gate(random, num_experts, 96, 0.1f);
  std::vector<int64_t> tid2eid(static_cast<size_t>(vocab_size) * num_selected);
  for (size_t i = 0; i < tid2eid.size(); ++i) tid2eid[i] = static_cast<int64_t>((i * 5 + i / 3) % num_experts);
  const std::vector<int32_t> token_ids = {19, 0, 7, 7};
  const Routing routing = run(x, gate, nullptr, tid2eid.data(), token_ids.data(), num_selected, 1.5f);
  for (int t = 0; t < num_tokens; ++t) {
    const auto scores = scores_of(x, t, gate);
    double sum = 0.0;
    for (int slot = 0; slot < num_selected; ++slot) sum += scores[tid2eid[token_ids[t] * num_selected + slot]];
    for (int slot = 0; slot < num_selected; ++slot) {
      const int64_t expert = tid2eid[token_ids[t] * num_selected + slot];
      EXPECT_EQ(routing.experts[t * num_selected + slot], expert);
      EXPECT_TRUE(test::close_to(routing.weights[t * num_selected + slot], scores[expert] / sum * 1.5, 1e-5));
    }
  }
}

TEST(Router, SoftplusThresholdAndExtremes) {
  // z is the single weight itself: around 20, where softplus becomes the identity, and far on both sides (no overflow).
  const std::vector<float> z = {20.0f, 20.125f, 19.875f, 100.0f, 16384.0f, -80.0f, 0.0f, -20.0f};
  test::Random random(85);
  test::Bf16Matrix x(random, 1, 1), gate(random, static_cast<int>(z.size()), 1);
  x.data = {to_bf16(1.0f)};
  for (size_t e = 0; e < z.size(); ++e) gate.data[e] = to_bf16(z[e]);
  const std::vector<float> bias(z.size(), 0.0f);
  const Routing routing = run(x, gate, bias.data(), nullptr, nullptr, static_cast<int>(z.size()), 1.0f);
  EXPECT_EQ(routing.experts, (std::vector<int32_t>{4, 3, 1, 0, 2, 6, 7, 5}));
  double sum = 0.0;
  for (const float value : z) sum += score(value);
  for (size_t slot = 0; slot < z.size(); ++slot) {
    const double expected = score(z[routing.experts[slot]]) / sum;
    EXPECT_TRUE(test::close_to(routing.weights[slot], expected, expected * 1e-6 + 1e-30)) << z[routing.experts[slot]];
  }
}

TEST(Router, SameBitsAloneOrInABatch) {
  test::Random random(86);
  const test::Bf16Matrix x(random, 70, 300), gate(random, 33, 300, 0.1f);
  const auto bias = test::random_floats(random, 33);
  const Routing batch = run(x, gate, bias.data(), nullptr, nullptr, 4, 1.5f);
  for (const int t : {0, 63, 64, 69}) {
    const Routing alone = run(x, gate, bias.data(), nullptr, nullptr, 4, 1.5f, t, 1);
    EXPECT_TRUE(test::same_bytes(alone.experts, std::vector<int32_t>(batch.experts.begin() + t * 4, batch.experts.begin() + t * 4 + 4)));
    EXPECT_TRUE(test::same_bytes(alone.weights, std::vector<float>(batch.weights.begin() + t * 4, batch.weights.begin() + t * 4 + 4)));
  }
}

TEST(Router, BadInputsAreErrors) {
  test::Random random(87);
  const test::Bf16Matrix x(random, 1, 32), gate(random, 4, 32);
  const std::vector<float> bias(4, 0.0f);
  const std::vector<int64_t> table = {0, 4};
  const std::vector<int32_t> token_ids = {0};
  EXPECT_THROW(run(x, gate, bias.data(), nullptr, nullptr, 5, 1.0f), Error);
  EXPECT_THROW(run(x, gate, nullptr, nullptr, nullptr, 2, 1.0f), Error);
  EXPECT_THROW(run(x, gate, bias.data(), table.data(), token_ids.data(), 2, 1.0f), Error);
  EXPECT_THROW(run(x, gate, nullptr, table.data(), token_ids.data(), 2, 1.0f), Error);
}

TEST(Router, PaddingRowsHaveNoExperts) {
  test::Random random(88);
  const test::Bf16Matrix x(random, 3, 64), gate(random, 8, 64, 0.1f);
  const auto bias = test::random_floats(random, 8, 0.5f);
  const Routing whole = run(x, gate, bias.data(), nullptr, nullptr, 2, 1.5f);
  Routing padded = whole;
  const std::vector<int32_t> positions = {17, -1, 0};
  cpu::router({x.data.data(), gate.view(), bias.data(), nullptr, nullptr, padded.experts.data(), padded.weights.data(), 3, 2, 1.5f,
               positions.data()});
  for (const size_t i : {0, 1, 4, 5}) {
    EXPECT_EQ(padded.experts[i], whole.experts[i]);
    EXPECT_EQ(padded.weights[i], whole.weights[i]);
  }
  for (const size_t i : {2, 3}) {
    EXPECT_EQ(padded.experts[i], -1);
    EXPECT_EQ(padded.weights[i], 0.0f);
  }
}

}  // namespace
}  // namespace dsv4
