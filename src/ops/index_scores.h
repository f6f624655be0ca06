// Index scores (spec 2.7): I(t, c) = bf( Σ_h bf( relu(bf(iq_h·ik_c))·w_h ) ), head sum in fp32, for the visible entries c < ⌊(t+1)/ratio⌋
// of the rows [row_begin, row_end). Rows with at most `topk` visible entries select all of them and are skipped: their scores are not
// written.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "ops/batch.h"
#include "ops/kv_layout.h"

namespace dsv4 {

struct IndexScoresParams {
  const uint8_t* codes;   // e2m1 [num_tokens, num_heads, index_head_dim/2], from indexer_query
  const uint8_t* scales;  // ue8m0 [num_tokens, num_heads, index_head_dim/32]
  const Bf16* weights;    // [num_tokens, num_heads], κ included
  BatchView batch;
  PagedEntries entries;  // indexer cache (IndexEntryLayout)
  Bf16* scores;          // [row_end − row_begin, score_stride], out
  int64_t score_stride;  // ≥ largest number of visible entries of these rows
  int row_begin;
  int row_end;
  int num_heads;
  int index_head_dim;
  int ratio;
  int topk;
};

}  // namespace dsv4
