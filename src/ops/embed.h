// Embedding and stream expansion (spec 2.2): streams[t, h, :] = table[token_ids[t], :] for every stream h.
#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace dsv4 {

struct EmbedParams {
  const int32_t* token_ids;  // [num_tokens], each in [0, vocab_size)
  const Bf16* table;         // [vocab_size, hidden_size]
  Bf16* streams;             // [num_tokens, hc_mult, hidden_size], out
  int num_tokens;
  int hc_mult;  // copies of the row: 4 for the residual streams, 1 for a plain embedding
  int hidden_size;
};

}  // namespace dsv4
