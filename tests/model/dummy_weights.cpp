#include "model/dummy_weights.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "backend/cpu/backend.h"
#include "model/forward.h"

namespace dsv4 {
namespace {

// Notes the mean square of the streams behind every layer.
struct StreamSizes final : LayerObserver {
  explicit StreamSizes(size_t row_elements) : row_size(row_elements) {}
  void on_selection(int, int, int, const Bf16*, int64_t, const int32_t*) override {}
  void on_layer(int, int num_tokens, const Bf16* streams) override {
    double sum = 0.0;
    const size_t count = static_cast<size_t>(num_tokens) * row_size;
    for (size_t i = 0; i < count; ++i) sum += std::pow(static_cast<double>(to_float(streams[i])), 2);
    mean_squares.push_back(sum / static_cast<double>(count));
  }
  size_t row_size;
  std::vector<double> mean_squares;
};

class DummyWeights : public ::testing::Test {
 protected:
  static constexpr int kNumTokens = 60;

  // Logits of every token of one prompt.
  std::vector<float> run(uint64_t seed) {
    Model model(config_, dummy_weights(config_, *backend_, seed), *backend_, {kNumTokens, 1, kNumTokens});
    EXPECT_FALSE(model.has_mtp());
    KvCache cache(config_, {1, 1, kNumTokens}, false, *backend_);
    std::vector<int32_t> tokens(kNumTokens), rows(kNumTokens);
    for (int i = 0; i < kNumTokens; ++i) {
      tokens[static_cast<size_t>(i)] = i * 37 % config_.vocab_size;
      rows[static_cast<size_t>(i)] = i;
    }
    const std::vector<int32_t> pages = {0};
    StepInput step;
    step.add_sequence(0, 0, tokens, pages);
    model.set_observer(&sizes_);
    model.forward(step, cache);
    const float* logits = model.logits(rows);
    return {logits, logits + kNumTokens * config_.vocab_size};
  }

  std::unique_ptr<Backend> backend_ = make_cpu_backend();
  ModelConfig config_ = first_layers(load_config(DSV4_SOURCE_DIR "/tests/data/mini/config.json"), 4);
  StreamSizes sizes_{static_cast<size_t>(config_.hc_mult * config_.hidden_size)};
};

TEST_F(DummyWeights, ActivationsStayOfOrderOne) {
  const std::vector<float> logits = run(1);
  ASSERT_EQ(sizes_.mean_squares.size(), 4u);
  for (double mean_square : sizes_.mean_squares) {
    EXPECT_GT(mean_square, 0.01);
    EXPECT_LT(mean_square, 1000.0);
  }
  double sum = 0.0;
  for (float logit : logits) {
    ASSERT_TRUE(std::isfinite(logit));
    sum += static_cast<double>(logit) * static_cast<double>(logit);
  }
  EXPECT_GT(sum / static_cast<double>(logits.size()), 0.05);
  EXPECT_LT(sum / static_cast<double>(logits.size()), 20.0);
}

TEST_F(DummyWeights, TheSeedDecides) {
  const std::vector<float> logits = run(1);
  EXPECT_EQ(run(1), logits);
  EXPECT_NE(run(2), logits);
}

TEST_F(DummyWeights, HashLayersChooseDifferentValidExperts) {
  const ModelWeights weights = dummy_weights(config_, *backend_, 3);
  const int64_t* table = weights.layers[0].moe.tid2eid;
  ASSERT_NE(table, nullptr);
  std::set<int64_t> chosen;
  for (int token = 0; token < config_.vocab_size; ++token, table += config_.num_experts_per_tok) {
    const std::set<int64_t> experts(table, table + config_.num_experts_per_tok);
    EXPECT_EQ(experts.size(), static_cast<size_t>(config_.num_experts_per_tok));
    EXPECT_GE(*experts.begin(), 0);
    EXPECT_LT(*experts.rbegin(), config_.n_routed_experts);
    chosen.insert(experts.begin(), experts.end());
  }
  EXPECT_EQ(chosen.size(), static_cast<size_t>(config_.n_routed_experts));
}

}  // namespace
}  // namespace dsv4
