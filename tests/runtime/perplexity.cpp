#include "runtime/perplexity.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>

#include "backend/cpu/backend.h"
#include "base/error.h"
#include "runtime/engine.h"

namespace dsv4 {
namespace {

constexpr const char* kMini = DSV4_SOURCE_DIR "/tests/data/mini";  // 256 tokens of vocabulary and of context

std::vector<int32_t> random_tokens(int count) {
  std::mt19937 random(11);
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % 256);
  return tokens;
}

PerplexityReport measure(std::span<const int32_t> tokens, const PerplexityOptions& options) {
  const std::unique_ptr<Backend> backend = make_cpu_backend();
  return measure_perplexity(Checkpoint::open(kMini), *backend, tokens, options);
}

// −log2 softmax(logits)[token], summed over the tokens of one window, each fed alone to an engine.
double window_bits(Engine& engine, std::span<const int32_t> window) {
  const int id = engine.open_sequence();
  int32_t last = engine.config().bos_token_id;
  double bits = 0.0;
  for (int32_t token : window) {
    engine.feed(id, {&last, 1});
    engine.step();
    double sum = 0.0;
    const std::vector<float> logits = engine.logits(id);
    for (float logit : logits) sum += std::exp(static_cast<double>(logit));
    bits -= std::log2(std::exp(static_cast<double>(logits[static_cast<size_t>(token)])) / sum);
    last = token;
  }
  engine.close_sequence(id);
  return bits;
}

TEST(Perplexity, WindowsArePredictedFromBosOneByOne) {
  EngineOptions engine_options;
  engine_options.model_dir = kMini;
  engine_options.max_sequences = 1;
  Engine engine(engine_options);
  const std::vector<int32_t> tokens = random_tokens(75);
  PerplexityOptions options;
  options.window = 30;
  const PerplexityReport report = measure(tokens, options);
  EXPECT_EQ(report.num_tokens, 75);
  double bits = 0.0;
  for (size_t begin = 0; begin < tokens.size(); begin += 30) {
    bits += window_bits(engine, std::span(tokens).subspan(begin, std::min<size_t>(30, tokens.size() - begin)));
  }
  EXPECT_NEAR(report.bits, bits, 1e-6 * bits);
  EXPECT_NEAR(report.bits_per_token(), bits / 75.0, 1e-6 * bits);
  EXPECT_EQ(report.mtp.num_predictions, 0);
}

TEST(Perplexity, StepsChangeNothing) {
  const std::vector<int32_t> tokens = random_tokens(90);
  PerplexityOptions options;
  options.window = 60;
  options.with_mtp = true;
  const PerplexityReport expected = measure(tokens, options);
  for (int step_tokens : {1, 7, 33, 60, 61}) {
    options.step_tokens = step_tokens;
    const PerplexityReport report = measure(tokens, options);
    EXPECT_EQ(report.bits, expected.bits) << step_tokens;
    EXPECT_EQ(report.mtp.num_equal_text, expected.mtp.num_equal_text) << step_tokens;
    EXPECT_EQ(report.mtp.num_equal_main, expected.mtp.num_equal_main) << step_tokens;
  }
}

// One window by the model's own functions.
TEST(Perplexity, CountsTheMtpBlocksPredictions) {
  const std::vector<int32_t> tokens = random_tokens(40);
  const std::unique_ptr<Backend> backend = make_cpu_backend();
  const Checkpoint checkpoint = Checkpoint::open(kMini);
  Model model(checkpoint.config(), load_weights(checkpoint, *backend), *backend, {64, 1, 64});
  KvCache cache(checkpoint.config(), {1, 1, 64}, true, *backend);
  const std::vector<int32_t> pages = {0};
  std::vector<int32_t> inputs = {checkpoint.config().bos_token_id};
  inputs.insert(inputs.end(), tokens.begin(), tokens.end());
  std::vector<int32_t> next(inputs.begin() + 1, inputs.end());
  next.push_back(0);
  std::vector<int32_t> rows(inputs.size());
  std::iota(rows.begin(), rows.end(), 0);
  const auto best = [&](const float* logits) {
    std::vector<int32_t> ids;
    const int vocab_size = checkpoint.config().vocab_size;
    for (size_t row = 0; row < rows.size(); ++row) {
      const float* begin = logits + static_cast<std::ptrdiff_t>(row) * vocab_size;
      ids.push_back(static_cast<int32_t>(std::max_element(begin, begin + vocab_size) - begin));
    }
    return ids;
  };
  StepInput step;
  step.add_sequence(0, 0, inputs, pages);
  model.forward(step, cache);
  const std::vector<int32_t> main_best = best(model.logits(rows));
  step.clear();
  step.add_sequence(0, 0, next, pages);
  model.forward_mtp(step, cache);
  const std::vector<int32_t> mtp_best = best(model.mtp_logits(rows));
  int64_t equal_text = 0;
  int64_t equal_main = 0;
  for (size_t t = 0; t < 39; ++t) {
    equal_text += mtp_best[t] == tokens[t + 1];
    equal_main += mtp_best[t] == main_best[t + 1];
  }

  PerplexityOptions options;
  options.with_mtp = true;
  options.window = 40;
  const MtpReport report = measure(tokens, options).mtp;
  EXPECT_EQ(report.num_predictions, 39);
  EXPECT_EQ(report.num_equal_text, equal_text);
  EXPECT_EQ(report.num_equal_main, equal_main);
}

TEST(Perplexity, RefusesWhatItCannotMeasure) {
  PerplexityOptions options;
  options.window = 10;
  EXPECT_THROW(measure({}, options), Error);
  const std::vector<int32_t> bad = {1, 256};
  EXPECT_THROW(measure(bad, options), Error);
  const std::vector<int32_t> good = {1, 255};
  EXPECT_EQ(measure(good, options).num_tokens, 2);
  options.window = 256;
  EXPECT_THROW(measure(good, options), Error);
  options.window = 255;
  EXPECT_EQ(measure(good, options).num_tokens, 2);
  options.window = 0;
  EXPECT_THROW(measure(good, options), Error);
}

}  // namespace
}  // namespace dsv4
