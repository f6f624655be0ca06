#include "model/forward.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <map>
#include <numeric>
#include <random>

#include "model/checkpoint.h"
#include "model/dummy_weights.h"
#include "support/device_model.h"
#include "support/gpu.h"
#include "text/tokenizer.h"

namespace dsv4 {
namespace {

constexpr float kMargin = 0.05f;  // logits nearer than this may change places between backends

int32_t best(const std::vector<float>& logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

float top_margin(std::vector<float> logits) {
  std::nth_element(logits.begin(), logits.begin() + 1, logits.end(), std::greater<>());
  return logits[0] - logits[1];
}

// The trained model in models/tiny, with text that it knows the kind of.
class ModelGpu : public test::GpuTest {
 protected:
  ModelGpu() : checkpoint_(Checkpoint::open(DSV4_SOURCE_DIR "/models/tiny")) {
    std::ifstream file(DSV4_SOURCE_DIR "/models/tiny/heldout.txt");
    const std::string text(std::istreambuf_iterator<char>(file), {});
    tokens_ = Tokenizer::from_file(DSV4_SOURCE_DIR "/models/tiny/tokenizer.json").encode(text.substr(0, 20000));
  }

  std::unique_ptr<test::DeviceModel> make(Backend& backend, int num_slots, int context) const {
    return std::make_unique<test::DeviceModel>(backend, checkpoint_.config(), load_weights(checkpoint_, backend), num_slots, context);
  }
  std::span<const int32_t> tokens(int begin, int count) const {
    return std::span(tokens_).subspan(static_cast<size_t>(begin), static_cast<size_t>(count));
  }

  Checkpoint checkpoint_;
  std::vector<int32_t> tokens_;
};

// Both ways: one backend computes the prompt, the other takes its bytes and goes on; `whole` has computed everything itself.
TEST_F(ModelGpu, ACacheContinuesOnTheOtherBackend) {
  constexpr int kPrompt = 603, kMore = 24, kContext = 1024;
  const std::unique_ptr<Backend> cpu = make_cpu_backend();
  const auto on_cpu = make(*cpu, 1, kContext), on_gpu = make(gpu(), 1, kContext);
  for (const bool from_cpu : {true, false}) {
    test::DeviceModel& source = from_cpu ? *on_cpu : *on_gpu;
    test::DeviceModel& target = from_cpu ? *on_gpu : *on_cpu;
    source.prefill(0, tokens(0, kPrompt));
    target.set_cache_bytes(source.cache_bytes());
    int num_compared = 0;
    for (int i = 0; i < kMore; ++i) {
      for (test::DeviceModel* model : {&source, &target}) {
        model->decode.run(std::vector{model->row(0, tokens_[static_cast<size_t>(kPrompt + i)], kPrompt + i)});
      }
      const std::vector<float> expected = source.kept_logits(0), actual = target.kept_logits(0);
      EXPECT_GT(test::cosine(expected, actual), 0.999) << (from_cpu ? "cpu → gpu" : "gpu → cpu") << ", token " << i;
      if (top_margin(expected) <= kMargin) continue;
      EXPECT_EQ(best(actual), best(expected)) << (from_cpu ? "cpu → gpu" : "gpu → cpu") << ", token " << i;
      ++num_compared;
    }
    EXPECT_GT(num_compared, kMore / 2);
  }
}

TEST_F(ModelGpu, ThePromptsLogitsAreThoseOfTheCpu) {
  constexpr int kPrompt = 700;
  const std::unique_ptr<Backend> cpu = make_cpu_backend();
  const auto on_cpu = make(*cpu, 1, 1024), on_gpu = make(gpu(), 1, 1024);
  on_gpu->prefill(0, tokens(0, kPrompt));
  on_cpu->prefill(0, tokens(0, kPrompt));
  int num_rows = 0, num_close = 0;
  for (int row = 0; row < kPrompt; row += 23) {
    const std::vector<float> expected = on_cpu->logits(row), actual = on_gpu->logits(row);
    // A router or a selection that falls the other way on one rounding moves single rows.
    const double cosine = test::cosine(expected, actual);
    EXPECT_GT(cosine, 0.99) << "row " << row;
    num_close += cosine > 0.999 ? 1 : 0;
    ++num_rows;
    // The prompt is noise to the model: its choices are close. A wider margin than that of the answers must hold.
    if (top_margin(expected) <= 5 * kMargin) continue;
    EXPECT_EQ(best(actual), best(expected)) << "row " << row;
  }
  EXPECT_GE(num_close, num_rows * 9 / 10) << "of " << num_rows;
}

// One sequence's token, computed again and again at the same position, which leaves the cache as it is.
TEST_F(ModelGpu, ADecodedTokenIsTheSameBitForBitInEveryBatch) {
  constexpr int kSlots = 64, kContext = 1024;
  const auto model = make(gpu(), kSlots, kContext);
  std::vector<int> lengths;
  std::mt19937 random(1);
  for (int slot = 0; slot < kSlots; ++slot) {
    lengths.push_back(slot == 0 ? 511 : slot == 1 ? 127 : 1 + static_cast<int>(random() % 600));
    model->prefill(slot, tokens(100 * slot % 2000, lengths.back()));
  }
  const auto row = [&](int slot) { return model->row(slot, tokens_[static_cast<size_t>(slot)], lengths[static_cast<size_t>(slot)]); };
  std::map<int, std::vector<float>> alone;
  for (const int slot : {0, 1}) {
    model->decode.run(std::vector{row(slot)});
    alone[slot] = model->kept_logits(slot);
  }
  std::vector<int> others(kSlots - 2);
  std::iota(others.begin(), others.end(), 2);
  for (int size = 2; size <= kSlots; size += size < 20 ? 1 : 4) {
    for (int replay = 0; replay < 2; ++replay) {
      std::shuffle(others.begin(), others.end(), random);
      std::vector<DecodeRow> rows{row(0), row(1)};
      for (int i = 2; i < size; ++i) rows.push_back(row(others[static_cast<size_t>(i - 2)]));
      std::shuffle(rows.begin(), rows.end(), random);
      for (int slot = 0; slot < kSlots; ++slot) model->decode.forget(slot);  // else the rows stay where they are
      model->decode.run(rows);
      for (const int slot : {0, 1}) ASSERT_EQ(model->kept_logits(slot), alone[slot]) << "slot " << slot << " in a batch of " << size;
    }
  }
  // The same tokens in steps that are launched op by op, beside chunks of prompts.
  for (const int chunk : {0, 1, 5, 64, 300, 600}) {
    StepInput step;
    if (chunk > 1) step.add_sequence(2, 0, tokens(7, chunk), model->pages[2]);
    for (const int slot : {0, 1}) {
      step.add_sequence(slot, lengths[static_cast<size_t>(slot)], tokens(slot, 1), model->pages[static_cast<size_t>(slot)]);
    }
    if (chunk > 0) step.add_sequence(3, 0, tokens(9, chunk / 2 + 1), model->pages[3]);
    model->model.forward(step, model->cache);
    const int first = chunk > 1 ? chunk : 0;
    for (const int slot : {0, 1}) ASSERT_EQ(model->logits(first + slot), alone[slot]) << "slot " << slot << " beside chunks of " << chunk;
  }
}

TEST_F(ModelGpu, ABatchOfPaddingTouchesNoCache) {
  const auto model = make(gpu(), 4, 512);
  for (int slot = 0; slot < 4; ++slot) model->prefill(slot, tokens(50 * slot, 200 + slot));
  const std::vector<std::vector<uint8_t>> before = model->cache_bytes();
  const std::vector<float> kept = model->kept_logits(2);
  model->decode.warm_up(4);
  EXPECT_TRUE(model->cache_bytes() == before);
  EXPECT_EQ(model->kept_logits(2), kept);
  model->model.forward(StepInput(), model->cache);
  EXPECT_TRUE(model->cache_bytes() == before);
}

TEST_F(ModelGpu, TheLastPositionOfTheContextIsComputed) {
  constexpr int kContext = 512;
  const auto model = make(gpu(), 2, kContext);
  for (int slot = 0; slot < 2; ++slot) model->prefill(slot, tokens(0, kContext - 2));
  for (int position = kContext - 2; position < kContext; ++position) {
    model->prefill(0, tokens(position, 1), position);
    model->decode.run(std::vector{model->row(1, tokens_[static_cast<size_t>(position)], position)});
  }
  model->prefill(0, tokens(kContext - 1, 1), kContext - 1);  // once more, launched op by op
  EXPECT_EQ(model->kept_logits(1), model->logits(0));
}

// Kernels of one more layer of a kind, in the real dimensions but for the number of experts and words.
TEST_F(ModelGpu, ALayerHasFewKernels) {
  const auto num_kernels = [&](std::vector<int> ratios) {
    ModelConfig config;
    config.compress_ratios = std::move(ratios);
    config.num_hidden_layers = static_cast<int>(config.compress_ratios.size());
    config.num_nextn_predict_layers = 0;
    config.num_hash_layers = 1;
    config.n_routed_experts = 8;
    config.vocab_size = 1024;
    config.max_position_embeddings = 65536;
    test::DeviceModel model(gpu(), config, dummy_weights(config, gpu(), 1), 4, 65536);
    model.decode.warm_up(4);
    std::vector<int> counts;
    for (const int size : {1, 4}) counts.push_back(model.decode.num_kernels(size));
    return counts;
  };
  const std::vector<int> base = num_kernels({0, 128, 4}), csa = num_kernels({0, 128, 4, 4}), hca = num_kernels({0, 128, 4, 128}),
                         swa = num_kernels({0, 0, 128, 4});
  for (size_t i = 0; i < base.size(); ++i) {
    RecordProperty(i == 0 ? "csa_kernels_1" : "csa_kernels_4", csa[i] - base[i]);
    RecordProperty(i == 0 ? "hca_kernels_1" : "hca_kernels_4", hca[i] - base[i]);
    std::printf("kernels per layer: CSA %d, HCA %d, SWA %d; outside layers: %d\n", csa[i] - base[i], hca[i] - base[i], swa[i] - base[i],
                base[i] - (csa[i] - base[i]) - (hca[i] - base[i]) - (swa[i] - base[i]));
    EXPECT_GT(csa[i] - base[i], 0);
    EXPECT_LE(csa[i] - base[i], 25);
    EXPECT_GT(hca[i] - base[i], 0);
    EXPECT_LE(hca[i] - base[i], 20);
  }
}

}  // namespace
}  // namespace dsv4
