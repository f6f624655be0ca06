// Core attention with sink over window and compressed entries (spec 2.9), then the inverse RoPE of the output at the row's position.
// Row t attends to the window positions max(0, t−window+1)…t of its ring and to compressed entries: the listed ones (CSA), all visible ones
// c < ⌊(t+1)/ratio⌋ (HCA), or none (SWA). One shared vector per entry is both key and value.
// o = bf( Σ_j e^{l_j−M}·k_j / (Σ_j e^{l_j−M} + e^{sink−M}) ), l_j = (q·k_j)·softmax_scale, M = max_j l_j; the sum runs over the window in
// ascending position, then over the entries in list order.
// Deviation from spec 2.9: e^{l_j−M} stays in fp32 for the value product; the golden files have it so, and it is the more exact form
// (docs/numerics.md).
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "ops/batch.h"
#include "ops/kv_layout.h"

namespace dsv4 {

struct AttentionParams {
  const Bf16* q;  // [num_tokens, num_heads, head_dim], from query_norm
  BatchView batch;
  WindowRing ring;
  PagedEntries entries;     // data = nullptr: window only
  const int32_t* selected;  // [num_tokens, num_selected], −1 = skip; places from the row's number of visible entries on are −1, so that
                            // they need not be read; nullptr: all visible entries
  const float* sink;        // [num_heads]
  const float* freqs;       // [kRopeDim/2]
  Bf16* out;                // [num_tokens, num_heads, head_dim]
  int num_heads;
  int head_dim;
  int window;  // sliding_window, the current token included
  int ratio;   // of the compressed entries; unused without them
  int num_selected;
  float softmax_scale;  // head_dim^-½
  // The shortest and the longest run of one sequence's rows in this step, padding rows included; 0 = unknown. A GPU leaves out launches
  // that would have no rows; results do not depend on them, but a wrong bound leaves rows unwritten.
  int min_new_tokens = 0;
  int max_new_tokens = 0;
};

}  // namespace dsv4
