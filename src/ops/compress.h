// KV compressor (spec 2.6): per channel a softmax over the slots of a block gathers one entry from the block's tokens; the entry is normed,
// rotated to the block's first position, quantised and stored in its page. For ratio 4 the 8 slots are the previous block (channels [0,
// dim)) and the block itself (channels [dim, 2·dim)); for ratio 128 they are the block's 128 tokens. Incomplete blocks yield nothing.
//
// State: the (a, b) rows of the last `state_tokens` positions of each sequence, by position mod state_tokens, so that a step may begin
// anywhere and rejected tokens can be rolled back. Rows of the present step are read from kv and gate; the state is updated after the
// entries are formed. Nothing before position 0 is ever read, so a new sequence needs no reset.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "ops/batch.h"
#include "ops/kv_layout.h"

namespace dsv4 {

enum class EntryFormat : uint8_t {
  kFp8,          // main cache: nope dims in FP8 blocks of 64, rope dims bf16 (KvEntryLayout)
  kFp4Hadamard,  // indexer cache: Hadamard rotation of all dims, then FP4 blocks of 32 (IndexEntryLayout)
};

struct CompressParams {
  const float* kv;     // [num_tokens, width] a_p, from linear_fp32; width = dim·(ratio == 4 ? 2 : 1)
  const float* gate;   // [num_tokens, width] from linear_fp32, before ape
  const float* ape;    // [ratio, width], added to gate in row position mod ratio
  const Bf16* weight;  // norm [dim]
  const float* freqs;  // [kRopeDim/2]
  BatchView batch;
  float* state;  // [num_slots, 2 (a, b with ape), state_tokens, width]
  PagedEntries entries;
  EntryFormat format;
  int ratio;         // 4 or 128
  int dim;           // head_dim or index_head_dim
  int state_tokens;  // ≥ 2·ratio for ratio 4, ≥ ratio for 128
  float eps;

  constexpr int width() const { return ratio == 4 ? 2 * dim : dim; }
};

}  // namespace dsv4
