#include "runtime/engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>

#include "base/error.h"

namespace dsv4 {
namespace {

// A small checkpoint with every layer kind; window 16, context 256.
EngineOptions mini_options(int max_sequences, int step_tokens) {
  EngineOptions options;
  options.model_dir = DSV4_SOURCE_DIR "/tests/data/mini";
  options.max_sequences = max_sequences;
  options.step_tokens = step_tokens;
  return options;
}

std::vector<int32_t> random_tokens(std::mt19937& random, int count) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % 256);
  return tokens;
}

void run_to_end(Engine& engine) {
  while (engine.step()) {
  }
}

// The last token's logits of a sequence computed alone, in one step.
std::vector<float> logits_alone(Engine& engine, std::span<const int32_t> tokens) {
  const int id = engine.open_sequence();
  engine.feed(id, tokens);
  run_to_end(engine);
  const std::vector<float> logits = engine.logits(id);
  engine.close_sequence(id);
  return logits;
}

int pick(std::mt19937& random, int low, int high) {
  return low + static_cast<int>(random() % static_cast<unsigned>(high - low + 1));
}

TEST(Engine, OnePrefillEqualsAnyChunkingAndTokenByToken) {
  Engine whole(mini_options(1, 256));
  std::mt19937 random(1);
  const std::vector<int32_t> tokens = random_tokens(random, 200);
  const std::vector<float> expected = logits_alone(whole, tokens);
  for (int step_tokens : {1, 2, 3, 4, 5, 7, 16, 64, 127, 128, 129, 199}) {
    Engine chunked(mini_options(1, step_tokens));
    EXPECT_EQ(logits_alone(chunked, tokens), expected) << "in steps of " << step_tokens;
  }
}

TEST(Engine, EveryPrefixHasTheSameLogitsTokenByTokenAndAtOnce) {
  Engine engine(mini_options(2, 256));
  std::mt19937 random(2);
  const std::vector<int32_t> tokens = random_tokens(random, 140);
  const int id = engine.open_sequence();
  for (size_t i = 0; i < tokens.size(); ++i) {
    engine.feed(id, {&tokens[i], 1});
    run_to_end(engine);
    if (i % 9 == 0 || (i + 1) % 4 == 0) {
      ASSERT_EQ(engine.logits(id), logits_alone(engine, std::span(tokens).first(i + 1))) << "prefix of " << i + 1;
    }
  }
}

// Sequences join, leave, feed prompts and single tokens in any order; each must give what it gives alone.
TEST(Engine, RandomSchedulesGiveTheSameLogitsAsSequencesAlone) {
  constexpr int kSlots = 4;
  for (unsigned seed = 0; seed < 5; ++seed) {
    std::mt19937 random(seed);
    Engine engine(mini_options(kSlots, pick(random, 1, 40)));
    Engine oracle(mini_options(1, 256));
    std::vector<int> open;
    int num_checked = 0;
    const auto check = [&](int id) {
      ++num_checked;
      EXPECT_EQ(engine.logits(id), logits_alone(oracle, engine.tokens(id))) << "seed " << seed;
    };
    for (int event = 0; event < 60; ++event) {
      const int kind = pick(random, 0, 9);
      if (kind <= 2 && static_cast<int>(open.size()) < kSlots) {
        open.push_back(engine.open_sequence());
        engine.feed(open.back(), random_tokens(random, pick(random, 1, 70)));
      } else if (kind <= 5 && !open.empty()) {
        const int id = open[random() % open.size()];
        const int room = engine.max_context() - static_cast<int>(engine.tokens(id).size());
        engine.feed(id, random_tokens(random, std::min(room, pick(random, 0, 3) == 0 ? pick(random, 1, 40) : 1)));
      } else if (kind == 6 && !open.empty()) {
        const size_t leaving = random() % open.size();
        engine.close_sequence(open[leaving]);
        open.erase(open.begin() + static_cast<std::ptrdiff_t>(leaving));
      } else {
        engine.step();
        for (int id : open) {
          if (engine.ready(id) && pick(random, 0, 2) == 0) check(id);
        }
      }
    }
    run_to_end(engine);
    for (int id : open) check(id);
    EXPECT_GT(num_checked, 0) << "seed " << seed;
  }
}

TEST(Engine, RewindThenOtherTokensEqualsNeverHavingSeenTheRejectedOnes) {
  std::mt19937 random(3);
  for (int length : {1, 5, 20, 127, 128, 131, 180}) {
    Engine engine(mini_options(2, 64));
    const std::vector<int32_t> kept = random_tokens(random, length);
    const std::vector<int32_t> drafts = random_tokens(random, kMaxRollback);
    std::vector<int32_t> truth = kept;
    const int id = engine.open_sequence();
    engine.feed(id, kept);
    run_to_end(engine);
    for (int round = 0; round < 6; ++round) {
      engine.feed(id, drafts);
      run_to_end(engine);
      engine.rewind(id, kMaxRollback);
      EXPECT_FALSE(engine.ready(id));
      const std::vector<int32_t> accepted = random_tokens(random, 3);
      truth.insert(truth.end(), accepted.begin(), accepted.end());
      engine.feed(id, accepted);
      run_to_end(engine);
      ASSERT_EQ(engine.logits(id), logits_alone(engine, truth)) << "length " << length << ", round " << round;
    }
  }
}

TEST(Engine, RewindReachesBackFromTheFurthestComputedToken) {
  std::mt19937 random(6);
  Engine engine(mini_options(1, 64));
  const int id = engine.open_sequence();
  engine.feed(id, random_tokens(random, 100));
  run_to_end(engine);
  engine.rewind(id, 5);
  engine.rewind(id, 3);
  EXPECT_THROW(engine.rewind(id, 1), Error) << "nine computed tokens in two steps back";
  EXPECT_EQ(engine.tokens(id).size(), 92u);
  engine.feed(id, random_tokens(random, 4));
  engine.rewind(id, 4);  // not computed yet
  engine.feed(id, random_tokens(random, 6));
  run_to_end(engine);
  EXPECT_THROW(engine.rewind(id, 7), Error) << "98 tokens, 100 were computed";
  engine.rewind(id, 6);
  EXPECT_EQ(engine.tokens(id).size(), 92u);
}

TEST(Engine, SamplingRowsTogetherEqualsSamplingThemAlone) {
  Engine engine(mini_options(3, 64));
  std::mt19937 random(4);
  std::vector<int> ids;
  std::vector<Sampler> together, alone;
  std::vector<SampledToken> expected;
  for (int i = 0; i < 3; ++i) {
    ids.push_back(engine.open_sequence());
    engine.feed(ids.back(), random_tokens(random, 10 + i));
    SamplingParams params;
    params.temperature = 0.5f + static_cast<float>(i);
    params.seed = 7;
    params.num_logprobs = i;
    together.emplace_back(params, 256);
    alone.emplace_back(params, 256);
  }
  run_to_end(engine);
  for (int i = 0; i < 3; ++i) expected.push_back(engine.sample(ids[static_cast<size_t>(i)], alone[static_cast<size_t>(i)]));
  std::vector<Sampler*> samplers;
  for (Sampler& sampler : together) samplers.push_back(&sampler);
  const std::vector<SampledToken> drawn = engine.sample(ids, samplers);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(drawn[i].token_id, expected[i].token_id);
    EXPECT_EQ(drawn[i].logprob, expected[i].logprob);
    EXPECT_EQ(drawn[i].top.size(), i);
  }
}

// Random weights of the mini checkpoint's shape with room for several pages.
EngineOptions long_options(int max_sequences, int step_tokens = 300) {
  EngineOptions options;
  options.dummy = load_config(DSV4_SOURCE_DIR "/tests/data/mini/config.json");
  options.dummy->max_position_embeddings = 1024;
  options.max_sequences = max_sequences;
  options.max_context = 700;
  options.step_tokens = step_tokens;
  return options;
}

// Two engines that are fed the same: one takes decode steps; in the other, whose steps hold everything, two more tokens wait each time, so
// that it never does.
class DecodeTwins {
 public:
  explicit DecodeTwins(int max_sequences)
      : decode_(long_options(max_sequences)), eager_(long_options(max_sequences + 1, 4096)), companion_(eager_.open_sequence()) {}

  Engine& decode() { return decode_; }

  int open(std::span<const int32_t> prompt, const SamplingParams& params) {
    const int id = decode_.open_sequence();
    const int eager_id = eager_.open_sequence();
    sequences_.insert_or_assign(id, Twin{eager_id, Sampler(params, 256), Sampler(params, 256)});
    sequences_.at(id).decode_sampler.observe_prompt(prompt);
    sequences_.at(id).eager_sampler.observe_prompt(prompt);
    feed(id, prompt);
    return id;
  }
  void close(int id) {
    decode_.close_sequence(id);
    eager_.close_sequence(sequences_.at(id).eager_id);
    sequences_.erase(id);
  }
  void feed(int id, std::span<const int32_t> tokens) {
    decode_.feed(id, tokens);
    eager_.feed(sequences_.at(id).eager_id, tokens);
  }
  void rewind(int id, int num_tokens) {
    decode_.rewind(id, num_tokens);
    eager_.rewind(sequences_.at(id).eager_id, num_tokens);
  }
  void set_params(int id, const SamplingParams& params) {
    sequences_.at(id).decode_sampler.set_params(params, 256);
    sequences_.at(id).eager_sampler.set_params(params, 256);
  }

  void run() {
    run_to_end(decode_);
    if (eager_.tokens(companion_).size() > 600) {
      eager_.close_sequence(companion_);
      companion_ = eager_.open_sequence();
    }
    const std::vector<int32_t> two{5, 6};
    eager_.feed(companion_, two);
    run_to_end(eager_);
    EXPECT_EQ(eager_.counters().graph_launches, 0);
  }
  void expect_equal_logits(int id) {
    if (!decode_.ready(id)) return;
    EXPECT_EQ(decode_.logits(id), eager_.logits(sequences_.at(id).eager_id)) << "sequence " << id;
  }
  // What both draw, alternatives included.
  int32_t sample(int id) {
    Twin& twin = sequences_.at(id);
    const SampledToken drawn = decode_.sample(id, twin.decode_sampler);
    const SampledToken expected = eager_.sample(twin.eager_id, twin.eager_sampler);
    EXPECT_EQ(drawn.token_id, expected.token_id) << "sequence " << id;
    EXPECT_EQ(drawn.logprob, expected.logprob) << "sequence " << id;
    EXPECT_EQ(drawn.top.size(), expected.top.size());
    return drawn.token_id;
  }

 private:
  struct Twin {
    int eager_id;
    Sampler decode_sampler;
    Sampler eager_sampler;
  };

  Engine decode_;
  Engine eager_;
  int companion_;
  std::map<int, Twin> sequences_;
};

SamplingParams random_params(std::mt19937& random) {
  SamplingParams params;
  params.temperature = pick(random, 0, 2) == 0 ? 0.0f : 0.8f;
  params.seed = random();
  const int kind = pick(random, 0, 6);
  if (kind == 0) params.top_k = 5;
  if (kind == 1) params.top_p = 0.7f;
  if (kind == 2) params.repetition_penalty = 1.5f;
  if (kind == 3) params.frequency_penalty = 0.5f;
  if (kind == 4) params.num_logprobs = 2;
  if (kind == 5) params.logit_bias[7] = 3.0f;
  return params;
}

// Sequences of every kind of sampling come, go, stall, are fed what they drew or something else, and are rewound.
TEST(EngineDecode, StepsEqualThePathOfPrompts) {
  constexpr int kSlots = 5;
  for (unsigned seed = 0; seed < 3; ++seed) {
    std::mt19937 random(100 + seed);
    DecodeTwins twins(kSlots);
    std::vector<int> open;
    for (int event = 0; event < 30; ++event) {
      if (static_cast<int>(open.size()) < kSlots && pick(random, 0, 2) == 0) {
        const int length = pick(random, 0, 1) == 0 ? pick(random, 1, 9) : pick(random, 248, 258);
        open.push_back(twins.open(random_tokens(random, length), random_params(random)));
      } else if (!open.empty() && pick(random, 0, 9) == 0) {
        const size_t leaving = random() % open.size();
        twins.close(open[leaving]);
        open.erase(open.begin() + static_cast<std::ptrdiff_t>(leaving));
      }
      twins.run();
      for (int id : open) {
        twins.expect_equal_logits(id);
        const int action = pick(random, 0, 11);
        if (action == 0) continue;  // stalls
        if (action == 1) twins.set_params(id, random_params(random));
        if (!twins.decode().ready(id)) {
          twins.feed(id, random_tokens(random, 1));
          continue;
        }
        const int32_t drawn = twins.sample(id);
        if (action == 2) {
          const int num_tokens = std::min(pick(random, 1, 3), twins.decode().max_rewind(id));
          twins.rewind(id, std::min(num_tokens, static_cast<int>(twins.decode().tokens(id).size()) - 1));
        } else if (action == 3) {
          twins.feed(id, random_tokens(random, pick(random, 1, 2)));
        } else {
          twins.feed(id, {&drawn, 1});
        }
      }
    }
    EXPECT_GT(twins.decode().counters().graph_launches, 10) << "seed " << seed;
  }
}

TEST(EngineDecode, SameSequencesFedWhatTheyDrewNeedNothingFromTheHost) {
  std::mt19937 random(9);
  Engine engine(long_options(3));
  engine.warm_up(3);
  std::vector<int> ids;
  std::vector<Sampler> samplers;
  for (int i = 0; i < 3; ++i) {
    ids.push_back(engine.open_sequence());
    engine.feed(ids.back(), random_tokens(random, 240 + i));
    SamplingParams params;
    params.temperature = 0.5f * static_cast<float>(i);
    samplers.emplace_back(params, 256);
  }
  const auto draw_and_feed = [&] {
    for (size_t i = 0; i < ids.size(); ++i) {
      const SampledToken drawn = engine.sample(ids[i], samplers[i]);
      engine.feed(ids[i], {&drawn.token_id, 1});
    }
  };
  run_to_end(engine);
  draw_and_feed();
  ASSERT_TRUE(engine.step());
  for (int position = 241; position < 262; ++position) {  // of the first sequence
    draw_and_feed();
    const StepCounters before = engine.counters();
    ASSERT_TRUE(engine.step());
    const StepCounters after = engine.counters();
    const bool has_new_page = position <= 256 && position + 2 >= 256;  // of one of the three
    EXPECT_EQ(after.uploaded_bytes - before.uploaded_bytes, has_new_page ? 4 : 0) << "position " << position;
    EXPECT_EQ(after.allocations, before.allocations) << "position " << position;
    EXPECT_EQ(after.graph_launches - before.graph_launches, 1) << "position " << position;
  }
}

TEST(EngineDecode, WarmingUpInTheMiddleChangesNothing) {
  std::mt19937 random(10);
  DecodeTwins twins(4);
  SamplingParams params;
  const int first = twins.open(random_tokens(random, 30), params);
  const int second = twins.open(random_tokens(random, 11), params);
  for (int round = 0; round < 6; ++round) {
    twins.run();
    if (round == 2) twins.decode().warm_up(4);
    for (int id : {first, second}) {
      twins.expect_equal_logits(id);
      const int32_t drawn = twins.sample(id);
      twins.feed(id, {&drawn, 1});
    }
  }
}

TEST(EngineDecode, ASlotThatIsTakenAgainReadsItsNewPages) {
  std::mt19937 random(11);
  DecodeTwins twins(2);
  SamplingParams params;
  for (int round = 0; round < 2; ++round) {
    // The pages go back in one order and are taken in another.
    const int a = twins.open(random_tokens(random, 262), params);
    const int b = twins.open(random_tokens(random, 258 + round), params);
    for (int step = 0; step < 3; ++step) {
      twins.run();
      for (int id : {a, b}) {
        twins.expect_equal_logits(id);
        const int32_t drawn = twins.sample(id);
        twins.feed(id, {&drawn, 1});
      }
    }
    twins.close(a);
    twins.close(b);
  }
}

template <typename F>
std::string error_of(F&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Engine, BadUseIsAnErrorThatChangesNothing) {
  Engine engine(mini_options(1, 32));
  const int id = engine.open_sequence();
  EXPECT_EQ(error_of([&] { engine.open_sequence(); }), "all 1 sequences are open");
  EXPECT_EQ(error_of([&] { engine.feed(1, {}); }), "sequence 1 is not open");
  const std::vector<int32_t> bad{1, 256};
  EXPECT_EQ(error_of([&] { engine.feed(id, bad); }), "token id 256: expected 0 to 255");
  const std::vector<int32_t> long_prompt(257, 1);
  EXPECT_EQ(error_of([&] { engine.feed(id, long_prompt); }), "257 tokens do not fit: the context holds 256, 0 are used");
  EXPECT_TRUE(engine.tokens(id).empty());
  EXPECT_FALSE(engine.step());
  EXPECT_EQ(error_of([&] { engine.logits(id); }), "sequence 0 has no logits: feed it and step until it is ready");
  EXPECT_NE(error_of([&] { engine.rewind(id, 1); }), "no error");
  EXPECT_EQ(error_of([] {
              Engine too_long([] {
                auto options = mini_options(1, 32);
                options.max_context = 257;
                return options;
              }());
            }),
            "context: 257 tokens, this model has 256");
}

// Benchmarks begin in the middle: what follows a skip is computed as usual, on caches that hold zeros.
TEST(Engine, ASequenceMayBeginBehindItsBeginning) {
  Engine engine(mini_options(2, 64));
  std::mt19937 random(9);
  const int skipped = engine.open_sequence();
  engine.skip_to(skipped, 100);
  EXPECT_FALSE(engine.step());
  EXPECT_FALSE(engine.ready(skipped));
  EXPECT_EQ(engine.tokens(skipped).size(), 100u);
  engine.feed(skipped, random_tokens(random, 156));
  run_to_end(engine);
  for (float logit : engine.logits(skipped)) EXPECT_TRUE(std::isfinite(logit));
  EXPECT_EQ(engine.max_rewind(skipped), 8);
  EXPECT_EQ(error_of([&] { engine.skip_to(skipped, 256); }), "sequence 0 has 256 tokens already, expected none");

  // Nothing is skipped by a skip to the beginning.
  const std::vector<int32_t> tokens = random_tokens(random, 90);
  const int whole = engine.open_sequence();
  engine.skip_to(whole, 0);
  engine.feed(whole, tokens);
  run_to_end(engine);
  Engine oracle(mini_options(1, 64));
  EXPECT_EQ(engine.logits(whole), logits_alone(oracle, tokens));
  engine.close_sequence(whole);
  const int bad = engine.open_sequence();
  EXPECT_EQ(error_of([&] { engine.skip_to(bad, 257); }), "position 257, the context holds 256");
}

TEST(Engine, AFullContextWorksToItsLastToken) {
  Engine engine(mini_options(2, 100));
  std::mt19937 random(5);
  const std::vector<int32_t> tokens = random_tokens(random, 256);
  const int id = engine.open_sequence();
  engine.feed(id, tokens);
  run_to_end(engine);
  EXPECT_EQ(engine.logits(id).size(), 256u);
  EXPECT_NE(error_of([&] { engine.feed(id, std::span(tokens).first(1)); }), "no error");
}

TEST(Engine, ChunksOfPromptsSuitTheDevice) {
  EXPECT_EQ(default_step_tokens("cpu", 1), 512);
  EXPECT_EQ(default_step_tokens("cuda", 1), 4096);
  EXPECT_EQ(default_step_tokens("cuda:1", 64), 1024);
  EXPECT_EQ(default_step_tokens("cuda", 4096), 512);
  EngineOptions options = mini_options(1, 0);
  EXPECT_EQ(Engine(options).options().step_tokens, 512);
}

}  // namespace
}  // namespace dsv4
