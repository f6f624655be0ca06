// Sampling settings of one completion and the history its penalties look at.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "ops/sample.h"

namespace dsv4 {

// The user's controls; meaning and order of application in ops/sample.h.
struct SamplingParams {
  float temperature = 1.0f;  // 0 = greedy
  int top_k = 0;             // 0 = off
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  uint64_t seed = 0;
  std::map<int32_t, float> logit_bias;  // token id → added to its logit; −infinity bans it
  int num_logprobs = 0;                 // alternatives to report per token, at most kMaxLogprobs
};

inline constexpr int kMaxLogprobs = 20;

// Throws Error naming the first setting out of its range (see ops/sample.h); token ids of the bias must be in [0, vocab_size), and must not
// ban them all.
void validate(const SamplingParams& params, int vocab_size);

// State of one completion. The n-th token drawn depends on the seed, n, the logits and the history alone.
class Sampler {
 public:
  // Throws Error as validate() does.
  Sampler(SamplingParams params, int vocab_size);

  const SamplingParams& params() const { return params_; }
  // Other settings from the next draw on; the history stays. Throws Error as validate() does and changes nothing then.
  void set_params(SamplingParams params, int vocab_size);

  void observe_prompt(std::span<const int32_t> token_ids);
  // Counts a token that was drawn; the next draw has the next index.
  void observe_completion(int32_t token_id);

  // The op's view of the settings; valid until the sampler changes.
  SampleRow row() const;

 private:
  TokenCount& count(int32_t token_id);

  SamplingParams params_;
  std::vector<LogitBias> bias_;
  std::vector<TokenCount> history_;
  std::map<int32_t, size_t> history_idx_;  // token id → index into history_
  uint64_t draw_idx_ = 0;
};

// `row` without its history, if it draws by itself: no bias, no penalty that would look at the history, no alternatives. A decode step can
// then draw with it (model/decode.h).
std::optional<SampleRow> self_contained(const SampleRow& row);

// A drawn token; log-probabilities are natural.
struct TokenLogprob {
  int32_t token_id = -1;
  float logprob = 0.0f;
};

struct SampledToken {
  int32_t token_id = -1;
  float logprob = 0.0f;
  std::vector<TokenLogprob> top;  // the num_logprobs most likely tokens, best first
};

}  // namespace dsv4
