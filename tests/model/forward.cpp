#include "model/forward.h"

#include <gtest/gtest.h>

#include <array>
#include <numeric>

#include "backend/cpu/backend.h"
#include "base/error.h"

namespace dsv4 {
namespace {

// The mini checkpoint (four layers of all kinds, MTP) in one slot of one cache.
class ForwardTest : public ::testing::Test {
 protected:
  static constexpr int kMaxTokens = 160;

  ForwardTest()
      : backend_(make_cpu_backend()),
        checkpoint_(Checkpoint::open(DSV4_SOURCE_DIR "/tests/data/mini")),
        model_(checkpoint_.config(), load_weights(checkpoint_, *backend_), *backend_, {kMaxTokens, 1, 4}),
        tokens_(kMaxTokens) {
    for (size_t i = 0; i < tokens_.size(); ++i) tokens_[i] = static_cast<int32_t>((i * 37 + i * i) % 256);
  }

  std::unique_ptr<KvCache> cache() {
    return std::make_unique<KvCache>(checkpoint_.config(), KvCacheOptions{1, 1, kMaxTokens}, true, *backend_);
  }

  StepInput step(const std::vector<int32_t>& tokens, int begin, int end) {
    StepInput input;
    input.add_sequence(0, begin, std::span(tokens).subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)), pages_);
    return input;
  }

  std::vector<float> copied(const float* logits, int num_rows) const {
    return {logits, logits + static_cast<size_t>(num_rows) * static_cast<size_t>(model_.config().vocab_size)};
  }

  std::unique_ptr<Backend> backend_;
  Checkpoint checkpoint_;
  Model model_;
  std::vector<int32_t> tokens_;
  std::vector<int32_t> pages_{0};
};

struct StreamRecorder final : LayerObserver {
  explicit StreamRecorder(size_t row_elements) : row_size(row_elements) {}
  void on_selection(int layer_idx, int row_begin, int row_end, const Bf16*, int64_t, const int32_t* selected) override {
    EXPECT_NE(selected, nullptr);
    selections.push_back({layer_idx, row_begin, row_end});
  }
  void on_layer(int layer_idx, int num_tokens, const Bf16* streams) override {
    ASSERT_EQ(layer_idx, static_cast<int>(layers.size()));
    layers.emplace_back();
    for (size_t i = 0; i < static_cast<size_t>(num_tokens) * row_size; ++i) layers.back().push_back(streams[i].bits);
  }
  size_t row_size;
  std::vector<std::vector<uint16_t>> layers;
  std::vector<std::array<int, 3>> selections;
};

TEST_F(ForwardTest, ALayerAloneGivesWhatItGivesInTheModel) {
  const auto& config = model_.config();
  StreamRecorder recorder(static_cast<size_t>(config.hc_mult * config.hidden_size));
  model_.set_observer(&recorder);
  const auto whole = cache();
  model_.forward(step(tokens_, 0, kMaxTokens), *whole);
  model_.set_observer(nullptr);
  ASSERT_EQ(recorder.layers.size(), 4u);
  EXPECT_EQ(recorder.selections, (std::vector<std::array<int, 3>>{{2, 0, kMaxTokens}, {3, 0, kMaxTokens}}));
  for (size_t layer_idx = 1; layer_idx < 4; ++layer_idx) {
    const auto alone = cache();
    std::vector<Bf16> in, out(recorder.layers[layer_idx].size());
    for (uint16_t bits : recorder.layers[layer_idx - 1]) in.push_back({bits});
    model_.forward_layer(static_cast<int>(layer_idx), step(tokens_, 0, kMaxTokens), *alone, in.data(), out.data());
    for (size_t i = 0; i < out.size(); ++i)
      ASSERT_EQ(out[i].bits, recorder.layers[layer_idx][i]) << "layer " << layer_idx << ", element " << i;
  }
}

TEST_F(ForwardTest, MtpInChunksEqualsMtpAtOnce) {
  std::vector<int32_t> next(tokens_.begin() + 1, tokens_.end());
  next.push_back(9);
  const auto whole = cache();
  model_.forward(step(tokens_, 0, kMaxTokens), *whole);
  model_.forward_mtp(step(next, 0, kMaxTokens), *whole);
  const std::vector<int32_t> last{kMaxTokens - 1};
  const std::vector<float> expected = copied(model_.mtp_logits(last), 1);

  const auto chunked = cache();
  for (int begin = 0, length = 1; begin < kMaxTokens; begin += length, length = length % 7 + 2) {
    const int end = std::min(begin + length, kMaxTokens);
    model_.forward(step(tokens_, begin, end), *chunked);
    model_.forward_mtp(step(next, begin, end), *chunked);
    if (end == kMaxTokens) {
      const std::vector<int32_t> row{end - begin - 1};
      EXPECT_EQ(copied(model_.mtp_logits(row), 1), expected);
    }
  }
}

TEST_F(ForwardTest, LogitsOfRowsComeInTheOrderAsked) {
  const auto own = cache();
  model_.forward(step(tokens_, 0, 20), *own);
  const std::vector<int32_t> rows{19, 3, 3}, row{3};
  const std::vector<float> together = copied(model_.logits(rows), 3);
  const std::vector<float> alone = copied(model_.logits(row), 1);
  const size_t vocab_size = alone.size();
  EXPECT_TRUE(std::equal(alone.begin(), alone.end(), together.begin() + static_cast<std::ptrdiff_t>(vocab_size)));
  EXPECT_TRUE(std::equal(alone.begin(), alone.end(), together.begin() + static_cast<std::ptrdiff_t>(2 * vocab_size)));
  EXPECT_FALSE(std::equal(alone.begin(), alone.end(), together.begin()));
}

TEST_F(ForwardTest, BadStepsAreRefused) {
  const auto own = cache();
  std::vector<int32_t> bad = tokens_;
  bad[5] = 256;
  EXPECT_THROW(model_.forward(step(bad, 0, 10), *own), Error);
  bad[5] = -1;
  EXPECT_THROW(model_.forward(step(bad, 0, 10), *own), Error);
  model_.forward(step(tokens_, 0, 10), *own);
  EXPECT_THROW(model_.logits(std::vector<int32_t>{10}), Error);
  EXPECT_THROW(model_.logits(std::vector<int32_t>{0, 1, 2, 3, 4}), Error);
  EXPECT_THROW(model_.forward_mtp(step(tokens_, 0, 9), *own), Error);
}

}  // namespace
}  // namespace dsv4
