#include "runtime/engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
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

}  // namespace
}  // namespace dsv4
