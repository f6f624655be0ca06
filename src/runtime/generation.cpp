#include "runtime/generation.h"

#include <algorithm>
#include <chrono>

#include "base/error.h"

namespace dsv4 {
namespace {

// Feeds the prompt and returns everything the sequence now holds.
std::span<const int32_t> feed_prompt(Engine& engine, int sequence_id, std::span<const int32_t> prompt_ids) {
  const size_t num_tokens = engine.tokens(sequence_id).size() + prompt_ids.size();
  require(num_tokens > 0, "the prompt is empty");
  require(num_tokens < static_cast<size_t>(engine.max_context()), "the prompt has {} tokens, the context holds {} with the answer",
          num_tokens, engine.max_context());
  engine.feed(sequence_id, prompt_ids);
  return engine.tokens(sequence_id);
}

int answer_limit(const Engine& engine, int sequence_id, int max_tokens) {
  require(max_tokens >= 0, "max tokens: {}, expected 0 (what the context holds) or more", max_tokens);
  const int room = engine.max_context() - static_cast<int>(engine.tokens(sequence_id).size());
  return max_tokens == 0 ? room : std::min(max_tokens, room);
}

}  // namespace

const char* finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
  }
  return "unknown";
}

Answer::Answer(const Tokenizer& tokenizer, const GenerationOptions& options, std::span<const int32_t> prompt_ids, int vocab_size,
               int max_tokens)
    : eos_id_(tokenizer.eos_id()),
      ignore_eos_(options.ignore_eos),
      stop_token_ids_(options.stop_token_ids),
      max_tokens_(static_cast<size_t>(max_tokens)),
      sampler_(options.sampling, vocab_size),
      decoder_(tokenizer),
      stop_strings_(options.stop_strings) {
  for (int32_t token_id : stop_token_ids_) {
    require(token_id >= 0 && token_id < vocab_size, "stop token {}: expected 0 to {}", token_id, vocab_size - 1);
  }
  sampler_.observe_prompt(prompt_ids);
}

bool Answer::is_stop_token(int32_t token_id) const {
  return std::find(stop_token_ids_.begin(), stop_token_ids_.end(), token_id) != stop_token_ids_.end();
}

std::string Answer::accept(const SampledToken& token) {
  tokens_.push_back(token);
  ended_by_eos_ = token.token_id == eos_id_ && !ignore_eos_;
  if (ended_by_eos_ || is_stop_token(token.token_id)) return finish(FinishReason::kStop);
  std::string decided = stop_strings_.push(decoder_.push(token.token_id));
  text_ += decided;
  if (stop_strings_.stopped()) {
    finish_reason_ = FinishReason::kStop;
  } else if (tokens_.size() >= max_tokens_) {
    decided += finish(FinishReason::kLength);
  }
  return decided;
}

std::string Answer::finish(FinishReason reason) {
  if (finished()) return {};
  std::string rest = stop_strings_.push(decoder_.flush());
  // A stop string may end with the U+FFFD that stands for a broken character.
  if (!stop_strings_.stopped()) rest += stop_strings_.finish();
  text_ += rest;
  finish_reason_ = reason;
  return rest;
}

Generation::Generation(Engine& engine, const Tokenizer& tokenizer, int sequence_id, std::span<const int32_t> prompt_ids,
                       const GenerationOptions& options, std::function<bool()> is_cancelled)
    : engine_(engine),
      sequence_id_(sequence_id),
      num_prompt_tokens_(static_cast<int>(feed_prompt(engine, sequence_id, prompt_ids).size())),
      num_fed_tokens_(static_cast<int>(prompt_ids.size())),
      answer_(tokenizer, options, engine.tokens(sequence_id), engine.config().vocab_size,
              answer_limit(engine, sequence_id, options.max_tokens)),
      is_cancelled_(std::move(is_cancelled)) {}

std::string Generation::next() {
  if (done()) return {};
  const bool is_first = answer_.tokens().empty();
  const auto start = std::chrono::steady_clock::now();
  if (!is_first) engine_.feed(sequence_id_, {&answer_.tokens().back().token_id, 1});
  do {
    if (is_cancelled_ && is_cancelled_()) return answer_.finish(FinishReason::kCancelled);
    engine_.step();
  } while (!engine_.ready(sequence_id_));
  const SampledToken token = engine_.sample(sequence_id_, answer_.sampler());
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  (is_first ? times_.prompt : times_.decode) += elapsed.count();
  return answer_.accept(token);
}

}  // namespace dsv4
