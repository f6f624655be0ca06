// How well a model predicts a text.
#pragma once

#include <cstdint>
#include <span>

#include "model/checkpoint.h"
#include "model/forward.h"

namespace dsv4 {

struct PerplexityOptions {
  int window = 1023;           // tokens predicted by one sequence
  int step_tokens = 512;       // most tokens of one step; does not change the result
  bool with_mtp = false;       // also follow the MTP block's predictions
  LoadProgress progress = {};  // of the weights
};

// Predictions that an MTP block makes for the token after the next one.
struct MtpReport {
  int64_t num_predictions = 0;
  int64_t num_equal_text = 0;  // its most likely token is the text's
  int64_t num_equal_main =
      0;  // its most likely token is the one the main model finds most likely one step later: a draft that would be accepted
};

struct PerplexityReport {
  int64_t num_tokens = 0;
  double bits = 0.0;  // −log2 of the probability of the whole text
  MtpReport mtp;

  double bits_per_token() const { return bits / static_cast<double>(num_tokens); }
};

// Predicts every token of `token_ids`: consecutive windows that do not overlap, each preceded by BOS and run as one sequence from position
// 0. Throws Error for no tokens, ids outside the vocabulary, a window that does not fit the model's context, or `with_mtp` where there is
// no MTP block.
PerplexityReport measure_perplexity(const Checkpoint& checkpoint, Backend& backend, std::span<const int32_t> token_ids,
                                    const PerplexityOptions& options);

}  // namespace dsv4
