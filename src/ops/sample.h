// Sampling (spec 2.12 and the usual controls). Per row, in this order: logit bias, repetition / presence / frequency penalties over the
// row's history, log-probabilities (of the logits as they then stand), temperature, top-k, top-p, min-p, then the draw argmax p_i / x_i
// with x_i ~ Exp(1) from a counter-based generator keyed by (seed, draw_idx): the same draw whatever else is in the batch: x_i = −log(u_i),
// u_i = sample_uniform(i, draw_idx, seed) of base/philox.h. Temperature 0 is argmax, equal logits in favour of the lower id. A logit of
// −inf (a ban) is never drawn. Each row needs at least one finite logit after the bias, and none that is NaN or +inf, and token ids of the
// vocabulary in its lists: the CPU op throws Error otherwise; a device cannot, and writes token id −1 and log-probability NaN.
#pragma once

#include <cstdint>

namespace dsv4 {

struct LogitBias {
  int32_t token_id;
  float bias;
};

// A token that occurred in the row's history, and how often in the prompt and in the completion.
struct TokenCount {
  int32_t token_id;
  int32_t prompt_count;
  int32_t completion_count;
};

struct SampleRow {
  float temperature = 0.0f;         // ≥ 0; 0 = greedy
  int32_t top_k = 0;                // 0 = off
  float top_p = 1.0f;               // (0, 1]; 1 = off
  float min_p = 0.0f;               // [0, 1); relative to the largest probability; 0 = off
  float repetition_penalty = 1.0f;  // > 0; logits of seen tokens (prompt and completion) are divided (if > 0) or multiplied (if < 0) by it
  float presence_penalty = 0.0f;    // subtracted once from tokens of the completion
  float frequency_penalty = 0.0f;   // subtracted times the count in the completion
  uint64_t seed = 0;
  uint64_t draw_idx = 0;            // position of the drawn token in its sequence
  const LogitBias* bias = nullptr;  // [num_bias], each token id once
  int32_t num_bias = 0;
  const TokenCount* history = nullptr;  // [num_history], each token id once
  int32_t num_history = 0;
  int32_t num_logprobs = 0;  // alternatives wanted

  // The same settings and the same lists, as pointers.
  bool operator==(const SampleRow&) const = default;
};

// All pointers, those in the rows included, are backend memory.
struct SampleParams {
  float* logits;          // [num_rows, vocab_size], changed in place
  const SampleRow* rows;  // [num_rows]
  int32_t* token_ids;     // [num_rows], out; −1 for a bad row of a device
  float* logprobs;        // [num_rows], out: natural log-probability of the drawn token
  int32_t* top_ids;       // [num_rows, max_logprobs], out: most likely ids, best first, −1 past num_logprobs; nullptr if max_logprobs = 0
  float* top_logprobs;    // [num_rows, max_logprobs], out
  int num_rows;
  int vocab_size;
  int max_logprobs;
};

}  // namespace dsv4
