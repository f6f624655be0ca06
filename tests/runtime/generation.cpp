#include "runtime/generation.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace dsv4 {
namespace {

constexpr const char* kModel = DSV4_SOURCE_DIR "/models/tiny";
constexpr int kContext = 200;

const Tokenizer& tokenizer() {
  static const Tokenizer tokenizer = Tokenizer::from_file(std::string(kModel) + "/tokenizer.json");
  return tokenizer;
}

EngineOptions engine_options() {
  EngineOptions options;
  options.model_dir = kModel;
  options.max_sequences = 2;
  options.max_context = kContext;
  options.step_tokens = 16;
  options.num_threads = 1;
  return options;
}

GenerationOptions greedy(int max_tokens) {
  GenerationOptions options;
  options.sampling.temperature = 0.0f;
  options.max_tokens = max_tokens;
  options.ignore_eos = true;
  return options;
}

std::vector<int32_t> prompt(const std::string& text) {
  std::vector<int32_t> ids = tokenizer().encode(text, SpecialTokens::kPlain);
  ids.insert(ids.begin(), tokenizer().bos_id());
  return ids;
}

std::vector<int32_t> token_ids(const Answer& answer) {
  std::vector<int32_t> ids;
  for (const SampledToken& token : answer.tokens()) ids.push_back(token.token_id);
  return ids;
}

std::string run(Generation& generation) {
  std::string text;
  while (!generation.done()) text += generation.next();
  return text;
}

// An answer that is handed the tokens of `text` one by one; returns what came out until it finished.
std::string accept_text(Answer& answer, const std::string& text) {
  std::string out;
  for (int32_t id : tokenizer().encode(text)) {
    if (answer.finished()) break;
    out += answer.accept({id, 0.0f, {}});
  }
  return out;
}

Answer make_answer(const GenerationOptions& options, int max_tokens = 100) {
  return Answer(tokenizer(), options, {}, tokenizer().vocab_size(), max_tokens);
}

TEST(Answer, WholeCharactersComeOut) {
  GenerationOptions options;
  Answer answer = make_answer(options);
  const std::string text = "naïve 🙂 你好";
  std::string out;
  for (int32_t id : tokenizer().encode(text)) {
    const std::string piece = answer.accept({id, 0.0f, {}});
    EXPECT_EQ(utf8_valid_prefix(piece), piece.size());
    out += piece;
  }
  EXPECT_EQ(out, text);
  EXPECT_EQ(answer.text(), text);
  EXPECT_FALSE(answer.finished());
  EXPECT_EQ(answer.finish(FinishReason::kCancelled), "");
  EXPECT_EQ(answer.finish_reason(), FinishReason::kCancelled);
}

TEST(Answer, EndsAtTheEndOfText) {
  GenerationOptions options;
  Answer answer = make_answer(options);
  EXPECT_EQ(accept_text(answer, "so it is<｜end▁of▁sentence｜>more"), "so it is");
  EXPECT_EQ(answer.finish_reason(), FinishReason::kStop);
  EXPECT_TRUE(answer.ended_by_eos());
  EXPECT_EQ(answer.tokens().back().token_id, tokenizer().eos_id());
  options.ignore_eos = true;
  Answer going_on = make_answer(options);
  EXPECT_EQ(accept_text(going_on, "a<｜end▁of▁sentence｜>b"), "a<｜end▁of▁sentence｜>b");
  EXPECT_FALSE(going_on.finished());
}

TEST(Answer, StopStringsReachAcrossTokens) {
  GenerationOptions options;
  options.stop_strings = {"earth and"};
  Answer answer = make_answer(options);
  EXPECT_EQ(accept_text(answer, "the earth was, the earth and all"), "the earth was, the ");
  EXPECT_EQ(answer.finish_reason(), FinishReason::kStop);
  EXPECT_FALSE(answer.ended_by_eos());
  EXPECT_EQ(answer.text(), "the earth was, the ");
}

TEST(Answer, WhatWasHeldBackComesOutAtTheEnd) {
  GenerationOptions options;
  options.stop_strings = {"earth and"};
  Answer answer = make_answer(options);
  const std::string out = accept_text(answer, "the earth");
  EXPECT_EQ(out, "the ");
  EXPECT_EQ(answer.finish(FinishReason::kCancelled), "earth");
  EXPECT_EQ(answer.text(), "the earth");
  EXPECT_EQ(answer.finish(FinishReason::kStop), "");
  EXPECT_EQ(answer.finish_reason(), FinishReason::kCancelled);
}

TEST(Answer, ABrokenCharacterBecomesAReplacement) {
  GenerationOptions options;
  Answer answer = make_answer(options);
  const int32_t first_byte = tokenizer().id_of("\xf0").value();
  EXPECT_EQ(answer.accept({first_byte, 0.0f, {}}), "");
  EXPECT_EQ(answer.finish(FinishReason::kLength), std::string(kReplacementCharacter));
}

TEST(Answer, StopTokensEndWithoutText) {
  GenerationOptions options;
  options.stop_token_ids = {tokenizer().encode(" earth").at(0)};
  Answer answer = make_answer(options);
  EXPECT_EQ(accept_text(answer, "the earth and"), "the");
  EXPECT_EQ(answer.finish_reason(), FinishReason::kStop);
  EXPECT_FALSE(answer.ended_by_eos());
  options.stop_token_ids = {tokenizer().vocab_size()};
  EXPECT_THROW(make_answer(options), Error);
}

TEST(Answer, EndsAfterMaxTokens) {
  GenerationOptions options;
  Answer answer = make_answer(options, 2);
  EXPECT_EQ(accept_text(answer, "the earth and the"), "the earth");
  EXPECT_EQ(answer.finish_reason(), FinishReason::kLength);
}

TEST(Generation, GreedyTokensAreTheLogitsMaxima) {
  Engine engine(engine_options());
  const std::vector<int32_t> ids = prompt("And it came to pass");
  Generation generation(engine, tokenizer(), engine.open_sequence(), ids, greedy(12));
  const std::string text = run(generation);
  EXPECT_EQ(generation.answer().finish_reason(), FinishReason::kLength);
  const std::vector<int32_t> answer_ids = token_ids(generation.answer());
  ASSERT_EQ(answer_ids.size(), 12u);
  EXPECT_EQ(text, tokenizer().decode(answer_ids));
  EXPECT_EQ(text, generation.answer().text());
  EXPECT_EQ(generation.num_prompt_tokens(), static_cast<int>(ids.size()));
  EXPECT_GT(generation.times().prompt, 0.0);
  EXPECT_GT(generation.times().decode, 0.0);

  const int check = engine.open_sequence();
  engine.feed(check, ids);
  for (int32_t id : answer_ids) {
    while (engine.step()) {
    }
    const std::vector<float> logits = engine.logits(check);
    EXPECT_EQ(std::max_element(logits.begin(), logits.end()) - logits.begin(), id);
    engine.feed(check, {&id, 1});
  }
}

TEST(Generation, ContinuingASequenceEqualsAFreshOne) {
  Engine engine(engine_options());
  const std::vector<int32_t> ids = prompt("And the LORD spake unto Moses, saying");
  const int fresh = engine.open_sequence();
  Generation whole(engine, tokenizer(), fresh, ids, greedy(10));
  const std::string expected = run(whole);
  engine.close_sequence(fresh);

  const int id = engine.open_sequence();
  Generation first(engine, tokenizer(), id, std::span(ids).first(4), greedy(1));
  run(first);
  Generation second(engine, tokenizer(), id, std::span(ids).subspan(4), greedy(10));
  EXPECT_EQ(second.num_prompt_tokens(), static_cast<int>(ids.size()));
  EXPECT_EQ(second.num_fed_tokens(), static_cast<int>(ids.size()) - 4);
  EXPECT_EQ(run(second), expected);
}

TEST(Generation, FillsTheContextAndNoMore) {
  Engine engine(engine_options());
  const std::vector<int32_t> ids = prompt("And it came to pass");
  Generation generation(engine, tokenizer(), engine.open_sequence(), ids, greedy(0));
  run(generation);
  EXPECT_EQ(generation.answer().finish_reason(), FinishReason::kLength);
  EXPECT_EQ(ids.size() + generation.answer().tokens().size(), static_cast<size_t>(kContext));
}

TEST(Generation, CanBeCancelledBetweenSteps) {
  Engine engine(engine_options());
  int num_asked = 0;
  // The prompt takes three steps of 16 tokens, then every token one.
  const std::vector<int32_t> ids(40, 70);
  Generation generation(engine, tokenizer(), engine.open_sequence(), ids, greedy(0), [&] { return ++num_asked > 5; });
  run(generation);
  EXPECT_EQ(generation.answer().finish_reason(), FinishReason::kCancelled);
  EXPECT_EQ(generation.answer().tokens().size(), 3u);

  Generation at_once(engine, tokenizer(), engine.open_sequence(), ids, greedy(0), [] { return true; });
  EXPECT_EQ(at_once.next(), "");
  EXPECT_TRUE(at_once.done());
  EXPECT_TRUE(at_once.answer().tokens().empty());
  EXPECT_EQ(at_once.next(), "");
}

TEST(Generation, RefusesPromptsThatDoNotFit) {
  Engine engine(engine_options());
  const int id = engine.open_sequence();
  EXPECT_THROW(Generation(engine, tokenizer(), id, {}, greedy(1)), Error);
  const std::vector<int32_t> too_long(kContext, 5);
  EXPECT_THROW(Generation(engine, tokenizer(), id, too_long, greedy(1)), Error);
  EXPECT_TRUE(engine.tokens(id).empty());
  Generation fits(engine, tokenizer(), id, std::span(too_long).first(kContext - 1), greedy(0));
  run(fits);
  EXPECT_EQ(fits.answer().tokens().size(), 1u);
}

TEST(Generation, FinishReasonsHaveNames) {
  EXPECT_STREQ(finish_reason_name(FinishReason::kStop), "stop");
  EXPECT_STREQ(finish_reason_name(FinishReason::kLength), "length");
  EXPECT_STREQ(finish_reason_name(FinishReason::kCancelled), "cancelled");
}

}  // namespace
}  // namespace dsv4
