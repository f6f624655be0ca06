// Indexer query (spec 2.7): RoPE on the last dims, iq ← bf(Hadamard(iq)), then FP4 codes in blocks of 32 (spec 3.4), the form in which
// index_scores reads it.
#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace dsv4 {

struct IndexerQueryParams {
  const Bf16* iq;            // [num_tokens, num_heads, index_head_dim], output of indexer.wq_b
  const int32_t* positions;  // [num_tokens]
  const float* freqs;        // [rope_dim/2]
  uint8_t* codes;            // e2m1 pairs [num_tokens, num_heads, index_head_dim/2], even dim in the low nibble, out
  uint8_t* scales;           // ue8m0 [num_tokens, num_heads, index_head_dim/32], out
  int num_tokens;
  int num_heads;
  int index_head_dim;
  int rope_dim;
};

}  // namespace dsv4
