// From a prompt's ids to an answer's text.
//
//   Generation generation(engine, tokenizer, engine.open_sequence(), prompt_ids, options);
//   while (!generation.done()) show(generation.next());
//
// Answer is the state of one answer without the engine, for a loop that steps many sequences together:
//
//   engine.step(); …
//   const SampledToken token = engine.sample(id, answer.sampler());
//   show(answer.accept(token));
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/engine.h"
#include "runtime/sampler.h"
#include "runtime/stop_strings.h"
#include "text/streaming_decoder.h"
#include "text/tokenizer.h"

namespace dsv4 {

enum class FinishReason : uint8_t {
  kStop,       // the model's end of text, a stop token or a stop string
  kLength,     // max_tokens, or the context is full
  kCancelled,  // from outside
};

// "stop", "length" or "cancelled".
const char* finish_reason_name(FinishReason reason);

struct GenerationOptions {
  SamplingParams sampling;
  std::vector<std::string> stop_strings;  // searched in the answer's text, across tokens; not part of what comes out
  std::vector<int32_t> stop_token_ids;    // besides the end of text
  bool ignore_eos = false;                // the end of text is a token like any other
  int max_tokens = 0;                     // of the answer; 0: as many as the context holds
};

class Answer {
 public:
  // An answer of at most `max_tokens` ≥ 1 tokens. The penalties look back at `prompt_ids`. `tokenizer` must outlive it. Throws Error for
  // options out of their range; max_tokens of the options is not looked at.
  Answer(const Tokenizer& tokenizer, const GenerationOptions& options, std::span<const int32_t> prompt_ids, int vocab_size, int max_tokens);

  // What the next token is to be drawn with.
  Sampler& sampler() { return sampler_; }

  // Takes the token drawn next; returns the text that is decided by it: whole characters, often none. Not to be called once finished.
  std::string accept(const SampledToken& token);

  // Ends the answer; returns the text that was held back.
  std::string finish(FinishReason reason);

  bool finished() const { return finish_reason_.has_value(); }
  // Only once finished.
  FinishReason finish_reason() const { return finish_reason_.value(); }

  // Every token drawn, the one that ended the answer included.
  const std::vector<SampledToken>& tokens() const { return tokens_; }
  // Everything that came out so far; added tokens in the text are spelled out, the end of text is not part of it.
  const std::string& text() const { return text_; }
  // True if the last token is the model's end of text.
  bool ended_by_eos() const { return ended_by_eos_; }

 private:
  bool is_stop_token(int32_t token_id) const;

  int32_t eos_id_;
  bool ignore_eos_;
  std::vector<int32_t> stop_token_ids_;
  size_t max_tokens_;
  Sampler sampler_;
  StreamingDecoder decoder_;
  StopStrings stop_strings_;
  std::vector<SampledToken> tokens_;
  std::string text_;
  std::optional<FinishReason> finish_reason_;
  bool ended_by_eos_ = false;
};

// Wall time of one answer, in seconds.
struct GenerationTimes {
  double prompt = 0.0;  // from the start until the first token is drawn
  double decode = 0.0;  // from then to the last token
};

// Drives one answer on an engine of which nothing else is running.
class Generation {
 public:
  // Continues an open sequence with `prompt_ids`; tokens it holds already count as prompt. `is_cancelled` is asked between steps. Throws
  // Error where the prompt is empty or leaves no room for an answer.
  Generation(Engine& engine, const Tokenizer& tokenizer, int sequence_id, std::span<const int32_t> prompt_ids,
             const GenerationOptions& options, std::function<bool()> is_cancelled = {});

  // Computes what is waiting, draws one token and returns the text decided by it. Nothing more comes once done().
  std::string next();
  bool done() const { return answer_.finished(); }

  const Answer& answer() const { return answer_; }
  // Tokens before the answer, and how many of them this generation has fed.
  int num_prompt_tokens() const { return num_prompt_tokens_; }
  int num_fed_tokens() const { return num_fed_tokens_; }
  const GenerationTimes& times() const { return times_; }

 private:
  Engine& engine_;
  int sequence_id_;
  int num_prompt_tokens_;
  int num_fed_tokens_;
  Answer answer_;
  std::function<bool()> is_cancelled_;
  GenerationTimes times_;
};

}  // namespace dsv4
