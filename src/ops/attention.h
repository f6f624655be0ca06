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

// What becomes of the output. A row's head has head_dim values, or their codes and scales.
enum class AttentionOutput : uint8_t {
  kBf16,  // bf(o), rotated back → bf: the model's numerics. out: [num_tokens, num_heads, head_dim] bf16
  kFp32,  // o rotated back, nothing rounded. out: the same shape, fp32
  kFp8,   // kBf16, quantised (spec 3.3). out: the same shape, e4m3; out_scales: [num_tokens, num_heads·⌈head_dim/128⌉] ue8m0
  kFp4,  // kBf16, quantised (spec 3.4). out: half as many bytes, e2m1, even dim low; out_scales: [num_tokens, num_heads·head_dim/32] ue8m0
};

inline constexpr int kAttentionFp8Block = 128;  // values of a head that share a scale, at most head_dim
inline constexpr int kAttentionFp4Block = 32;

struct AttentionParams {
  const Bf16* q;  // [num_tokens, num_heads, head_dim], from query_norm
  BatchView batch;
  WindowRing ring;
  PagedEntries entries;     // data = nullptr: window only
  const int32_t* selected;  // [num_tokens, num_selected], −1 = skip; places from the row's number of visible entries on are −1, so that
                            // they need not be read; nullptr: all visible entries
  const float* sink;        // [num_heads]
  const float* freqs;       // [kRopeDim/2]
  void* out;                // by `output`
  int num_heads;
  int head_dim;
  int window;  // sliding_window, the current token included
  int ratio;   // of the compressed entries; unused without them
  int num_selected;
  float softmax_scale;  // head_dim^-½
  int max_visible = 0;  // an upper bound of the compressed entries that a row sees; 0: as many as the page table has room for
  AttentionOutput output = AttentionOutput::kBf16;
  uint8_t* out_scales = nullptr;  // of kFp8 and kFp4
  float* lse = nullptr;           // [num_tokens, num_heads]: ln(Σ_j e^{l_j} + e^{sink}); −∞ for padding rows; nullptr: not wanted
  // [num_tokens, 2]: how many of the last window positions and of the first listed or visible entries the row attends to, instead of all
  // of them; larger counts mean all; 0 and 0: the output is zeros, lse is the sink. nullptr: all.
  const int32_t* key_counts = nullptr;
  // attention_scratch_bytes() of memory, 16-byte aligned, for backends that need it; with less a GPU is slower, and rows of more than
  // 1,152 keys ask for a part of each 1,152.
  void* scratch = nullptr;
  int64_t scratch_bytes = 0;
};

// An upper bound of the keys of a row of the step, and the most that a GPU takes.
inline int64_t attention_key_bound(const AttentionParams& params) {
  if (params.entries.data == nullptr) return params.window;
  if (params.selected != nullptr) return int64_t{params.window} + params.num_selected;
  const int64_t in_table = int64_t{params.batch.page_table_stride} * params.entries.entries_per_page;
  return params.window + (params.max_visible > 0 ? params.max_visible : in_table);
}
inline constexpr int64_t kAttentionMaxKeys = 4194176;

// Bytes of sums that the parts of a GPU hand over. The most that is of use in any step of `num_tokens` rows.
inline constexpr int64_t kAttentionMaxScratch = int64_t{144} << 20;
constexpr int64_t attention_scratch_bytes(int64_t num_tokens, int64_t num_heads, int64_t head_dim) {
  const int64_t part = (num_heads + 63) / 64 * 64 * (head_dim * 4 + 8);
  const int64_t all = num_tokens * 132 * part;
  return all < kAttentionMaxScratch / 512 * head_dim ? all : kAttentionMaxScratch / 512 * head_dim;
}

}  // namespace dsv4
