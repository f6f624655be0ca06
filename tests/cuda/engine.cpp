#include "runtime/engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <random>

#include "support/device_model.h"
#include "support/gpu.h"
#include "text/tokenizer.h"

namespace dsv4 {
namespace {

EngineOptions tiny_options(const char* device, int max_sequences) {
  EngineOptions options;
  options.model_dir = DSV4_SOURCE_DIR "/models/tiny";
  options.max_sequences = max_sequences;
  options.max_context = 1024;
  options.step_tokens = 2048;  // prompts are computed in one piece
  options.device = device;
  return options;
}

std::vector<int32_t> random_tokens(std::mt19937& random, int count, int vocab_size) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % static_cast<unsigned>(vocab_size));
  return tokens;
}

void run_to_end(Engine& engine) {
  while (engine.step()) {
  }
}

class EngineGpu : public test::GpuTest {
 protected:
  // The sequence's logits when it is computed alone: its prompt, then token by token.
  static std::vector<float> logits_alone(Engine& engine, std::span<const int32_t> tokens, size_t prompt_size) {
    const int id = engine.open_sequence();
    engine.feed(id, tokens.first(prompt_size));
    run_to_end(engine);
    for (int32_t token : tokens.subspan(prompt_size)) {
      engine.feed(id, {&token, 1});
      run_to_end(engine);
    }
    const std::vector<float> logits = engine.logits(id);
    engine.close_sequence(id);
    return logits;
  }
};

// The CPU writes 200 tokens; the GPU is fed the same and must choose the same wherever the CPU's choice is clear.
TEST_F(EngineGpu, GreedyTextIsTheCpus) {
  constexpr int kTokens = 200;
  constexpr float kMargin = 0.05f;
  Engine cpu(tiny_options("cpu", 1)), cuda(tiny_options("cuda", 1));
  const std::vector<int32_t> prompt = Tokenizer::from_file(DSV4_SOURCE_DIR "/models/tiny/tokenizer.json").encode("Once upon a time");
  const int on_cpu = cpu.open_sequence(), on_gpu = cuda.open_sequence();
  cpu.feed(on_cpu, prompt);
  cuda.feed(on_gpu, prompt);
  SamplingParams greedy;
  greedy.temperature = 0.0f;
  Sampler sampler(greedy, cuda.config().vocab_size);
  int num_compared = 0;
  double lowest_cosine = 1.0;
  for (int i = 0; i < kTokens; ++i) {
    run_to_end(cpu);
    run_to_end(cuda);
    const std::vector<float> expected = cpu.logits(on_cpu), actual = cuda.logits(on_gpu);
    std::vector<float> sorted = expected;
    std::nth_element(sorted.begin(), sorted.begin() + 1, sorted.end(), std::greater<>());
    const auto choice = static_cast<int32_t>(std::max_element(expected.begin(), expected.end()) - expected.begin());
    const SampledToken drawn = cuda.sample(on_gpu, sampler);
    if (sorted[0] - sorted[1] > kMargin) {
      EXPECT_EQ(drawn.token_id, choice) << "token " << i << ", margin " << sorted[0] - sorted[1];
      ++num_compared;
    }
    lowest_cosine = std::min(lowest_cosine, test::cosine(expected, actual));
    cpu.feed(on_cpu, {&choice, 1});
    cuda.feed(on_gpu, {&choice, 1});
  }
  std::printf("%d of %d tokens compared, lowest cosine of logits %.6f\n", num_compared, kTokens, lowest_cosine);
  EXPECT_GT(num_compared, kTokens / 2);
  EXPECT_GT(lowest_cosine, 0.99);  // codes that flip, from the last bits of sums in another order
}

TEST_F(EngineGpu, ADecodeStepIsOneGraphAndWaitsForItsTokensOnly) {
  constexpr int kSequences = 5;
  std::mt19937 random(1);
  Engine engine(tiny_options("cuda", kSequences));
  engine.warm_up(kSequences);
  std::vector<int> ids;
  std::vector<Sampler> samplers;
  for (int i = 0; i < kSequences; ++i) {
    ids.push_back(engine.open_sequence());
    engine.feed(ids.back(), random_tokens(random, 100 + i, engine.config().vocab_size));
    SamplingParams params;
    params.temperature = i % 2 == 0 ? 0.0f : 0.9f;
    samplers.emplace_back(params, engine.config().vocab_size);
  }
  std::vector<Sampler*> sampler_ptrs;
  for (Sampler& sampler : samplers) sampler_ptrs.push_back(&sampler);
  run_to_end(engine);
  for (int i = 0; i < 30; ++i) {
    const StepCounters before_sample = engine.counters();
    const std::vector<SampledToken> drawn = engine.sample(ids, sampler_ptrs);
    const StepCounters before_step = engine.counters();
    if (i >= 2) {  // what the first decode step draws with was not known to it
      EXPECT_EQ(before_step.synchronizations - before_sample.synchronizations, 1) << "step " << i;
      EXPECT_EQ(before_step.kernel_launches, before_sample.kernel_launches) << "step " << i;
      EXPECT_EQ(before_step.downloaded_bytes, before_sample.downloaded_bytes) << "step " << i;
    }
    for (size_t k = 0; k < ids.size(); ++k) engine.feed(ids[k], {&drawn[k].token_id, 1});
    ASSERT_TRUE(engine.step());
    const StepCounters after = engine.counters();
    if (i >= 2) {
      EXPECT_EQ(after.graph_launches - before_step.graph_launches, 1) << "step " << i;
      EXPECT_EQ(after.kernel_launches, before_step.kernel_launches) << "step " << i;
      EXPECT_EQ(after.synchronizations, before_step.synchronizations) << "step " << i;
      EXPECT_EQ(after.allocations, before_step.allocations) << "step " << i;
      EXPECT_EQ(after.uploaded_bytes, before_step.uploaded_bytes) << "step " << i;
    }
  }
  EXPECT_FALSE(engine.step()) << "nothing waits";
}

// Sequences of one batch end one after the other; the others must not notice. Draws with settings that need the history go another way.
TEST_F(EngineGpu, SequencesThatEndLeaveTheOthersAsTheyAre) {
  constexpr int kPrompt = 250;
  std::mt19937 random(2);
  Engine engine(tiny_options("cuda", 6)), oracle(tiny_options("cuda", 1));
  std::vector<int> ids;
  std::vector<Sampler> samplers;
  for (int i = 0; i < 6; ++i) {
    ids.push_back(engine.open_sequence());
    engine.feed(ids.back(), random_tokens(random, kPrompt + ids.back(), engine.config().vocab_size));
    SamplingParams params;
    params.seed = static_cast<uint64_t>(i);
    params.temperature = i == 0 ? 0.0f : 0.8f;
    if (i == 2) params.repetition_penalty = 1.3f;
    if (i == 3) params.num_logprobs = 3;
    samplers.emplace_back(params, engine.config().vocab_size);
  }
  while (!ids.empty()) {
    for (int step = 0; step < 3; ++step) {
      run_to_end(engine);
      for (size_t k = 0; k < ids.size(); ++k) {
        const SampledToken drawn = engine.sample(ids[k], samplers[k]);
        ASSERT_GE(drawn.token_id, 0);
        ASSERT_LT(drawn.token_id, engine.config().vocab_size);
        engine.feed(ids[k], {&drawn.token_id, 1});
      }
    }
    run_to_end(engine);
    for (int id : ids) {
      EXPECT_EQ(engine.logits(id), logits_alone(oracle, engine.tokens(id), static_cast<size_t>(kPrompt + id))) << "sequence " << id;
    }
    const size_t leaving = ids.size() / 2;
    engine.close_sequence(ids[leaving]);
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(leaving));
    samplers.erase(samplers.begin() + static_cast<std::ptrdiff_t>(leaving));
  }
}

// What is drawn within the step is what the op draws from the same logits afterwards.
TEST_F(EngineGpu, DrawsWithinTheStepEqualDrawsAfterIt) {
  std::mt19937 random(3);
  Engine engine(tiny_options("cuda", 2));
  const int id = engine.open_sequence();
  engine.feed(id, random_tokens(random, 64, engine.config().vocab_size));
  SamplingParams params;
  params.temperature = 1.0f;
  params.top_p = 0.9f;
  params.seed = 11;
  Sampler within(params, engine.config().vocab_size), after = within;
  params.num_logprobs = 1;  // not to be had within the step
  after.set_params(params, engine.config().vocab_size);
  for (int i = 0; i < 40; ++i) {
    run_to_end(engine);
    Sampler again = after;
    const SampledToken expected = engine.sample(id, again);
    const SampledToken drawn = engine.sample(id, within);
    EXPECT_EQ(drawn.token_id, expected.token_id) << "token " << i;
    EXPECT_EQ(drawn.logprob, expected.logprob) << "token " << i;
    after.observe_completion(drawn.token_id);
    engine.feed(id, {&drawn.token_id, 1});
  }
}

}  // namespace
}  // namespace dsv4
