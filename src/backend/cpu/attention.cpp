// One work item is one row and a group of heads: the row's keys are decoded to fp32 once, then logits, softmax and the weighted sum run
// over them in tiles that stay in cache. Every sum has an order of its own: logits over the dims in 16 lanes, the rest in the order of the
// keys.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "backend/cpu/kv_codec.h"
#include "backend/cpu/leaf.h"
#include "backend/cpu/ops.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/rope.h"
#include "backend/cpu/vector.h"
#include "base/error.h"

namespace dsv4::cpu {
namespace {

inline constexpr int kHeadsPerItem = 16;
inline constexpr int kHeadGroup = 4;  // heads that share the loads of a key
inline constexpr int kKeyTile = 64;

// logits[h][key] = (q_h·k_key)·scale for keys [begin, end).
template <int kBytes, int kHeads>
DSV4_INLINE void tile_logits(const float* q, const float* keys, int dim, int num_keys, int begin, int end, float scale, float* logits) {
  using V = Vec<kBytes>;
  for (int key = begin; key < end; ++key) {
    const float* k = keys + static_cast<size_t>(key) * dim;
    typename V::F32 sums[kHeads][V::kRegisters] = {};
    for (int i = 0; i < dim; i += kLanes) {
      for (int r = 0; r < V::kRegisters; ++r) {
        typename V::F32 key_lanes;
        load(k + i + r * V::kWidth, key_lanes);
        for (int h = 0; h < kHeads; ++h) {
          typename V::F32 query_lanes;
          load(q + h * dim + i + r * V::kWidth, query_lanes);
          sums[h][r] += query_lanes * key_lanes;
        }
      }
    }
    for (int h = 0; h < kHeads; ++h) {
      float lanes[kLanes];
      for (int r = 0; r < V::kRegisters; ++r) store(sums[h][r], lanes + r * V::kWidth);
      logits[static_cast<size_t>(h) * num_keys + key] = sum_16_lanes(lanes) * scale;
    }
  }
}

// out[h] += Σ_key p[h][key]·k_key for keys [begin, end), in the order of the keys.
template <int kBytes, int kHeads>
DSV4_INLINE void tile_values(const float* p, const float* keys, int dim, int num_keys, int begin, int end, float* out) {
  using V = Vec<kBytes>;
  constexpr int kColumns = kBytes == 64 ? 4 : 2;  // registers of one head
  for (int i = 0; i < dim; i += kColumns * V::kWidth) {
    typename V::F32 sums[kHeads][kColumns];
    for (int h = 0; h < kHeads; ++h) {
      for (int c = 0; c < kColumns; ++c) load(out + h * dim + i + c * V::kWidth, sums[h][c]);
    }
    for (int key = begin; key < end; ++key) {
      const float* k = keys + static_cast<size_t>(key) * dim + i;
      for (int c = 0; c < kColumns; ++c) {
        typename V::F32 key_lanes;
        load(k + c * V::kWidth, key_lanes);
        for (int h = 0; h < kHeads; ++h) sums[h][c] += p[static_cast<size_t>(h) * num_keys + key] * key_lanes;
      }
    }
    for (int h = 0; h < kHeads; ++h) {
      for (int c = 0; c < kColumns; ++c) store(sums[h][c], out + h * dim + i + c * V::kWidth);
    }
  }
}

template <int kBytes>
DSV4_INLINE void compute_logits_wide(const float* q, const float* keys, int num_heads, int dim, int num_keys, float scale, float* logits) {
  for (int begin = 0; begin < num_keys; begin += kKeyTile) {
    const int end = std::min(begin + kKeyTile, num_keys);
    int h = 0;
    for (; h + kHeadGroup <= num_heads; h += kHeadGroup) {
      tile_logits<kBytes, kHeadGroup>(q + h * dim, keys, dim, num_keys, begin, end, scale, logits + static_cast<size_t>(h) * num_keys);
    }
    for (; h < num_heads; ++h) {
      tile_logits<kBytes, 1>(q + h * dim, keys, dim, num_keys, begin, end, scale, logits + static_cast<size_t>(h) * num_keys);
    }
  }
}

template <int kBytes>
DSV4_INLINE void accumulate_values_wide(const float* p, const float* keys, int num_heads, int dim, int num_keys, float* out) {
  for (int begin = 0; begin < num_keys; begin += kKeyTile) {
    const int end = std::min(begin + kKeyTile, num_keys);
    int h = 0;
    for (; h + kHeadGroup <= num_heads; h += kHeadGroup) {
      tile_values<kBytes, kHeadGroup>(p + static_cast<size_t>(h) * num_keys, keys, dim, num_keys, begin, end, out + h * dim);
    }
    for (; h < num_heads; ++h) {
      tile_values<kBytes, 1>(p + static_cast<size_t>(h) * num_keys, keys, dim, num_keys, begin, end, out + h * dim);
    }
  }
}

DSV4_LEAF(compute_logits, (const float* q, const float* keys, int num_heads, int dim, int num_keys, float scale, float* logits),
          (q, keys, num_heads, dim, num_keys, scale, logits))
DSV4_LEAF(accumulate_values, (const float* p, const float* keys, int num_heads, int dim, int num_keys, float* out),
          (p, keys, num_heads, dim, num_keys, out))

// The maximum does not depend on the order; 16 running ones let the compiler use its vector instruction.
float max_of(const float* values, int count) {
  float lanes[kLanes];
  std::fill_n(lanes, kLanes, values[0]);
  int i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = values[i + lane] > lanes[lane] ? values[i + lane] : lanes[lane];
  }
  for (; i < count; ++i) lanes[0] = std::max(lanes[0], values[i]);
  return *std::max_element(lanes, lanes + kLanes);
}

// What the keys of one head leave beside their probabilities.
struct Softmax {
  float denominator;  // fp32 sum with the sink
  float lse;          // ln(Σ e^logit + e^sink)
};

// Turns one head's logits into probabilities relative to their maximum. Without keys only the sink counts.
Softmax softmax_with_sink(float* logits, int num_keys, float sink) {
  if (num_keys == 0) return {1.0f, sink};
  const float max = max_of(logits, num_keys);
  float sum = 0.0f;
  for (int key = 0; key < num_keys; ++key) {
    const float p = std::exp(logits[key] - max);
    sum += p;
    logits[key] = p;
  }
  // Relative to the larger of maximum and sink: the sink may be too far above the maximum for e^(sink − max).
  const double top = std::max(max, sink);
  const double all = static_cast<double>(sum) * std::exp(static_cast<double>(max) - top) + std::exp(static_cast<double>(sink) - top);
  return {sum + std::exp(sink - max), static_cast<float>(top + std::log(all))};
}

// How many of `count` keys the row attends to: key_counts[row, part], larger ones meaning all.
int limited(const AttentionParams& params, int64_t row, int part, int count) {
  return params.key_counts == nullptr ? count : std::clamp(params.key_counts[2 * row + part], 0, count);
}

// The entries of one row in the order of the contract: window in ascending position, then compressed entries.
void list_entries(const AttentionParams& params, int64_t row, std::vector<EntryBytes>& list) {
  const BatchView& batch = params.batch;
  const KvEntryLayout layout{params.head_dim};
  const int seq_idx = batch.seq_idx[row];
  const int position = batch.positions[row];
  list.clear();
  const int num_window = limited(params, row, 0, std::min(params.window, position + 1));
  for (int p = position - num_window + 1; p <= position; ++p) {
    list.push_back(entry_bytes(layout, params.ring.data, batch.slots[seq_idx], params.ring.ring_size, p % params.ring.ring_size));
  }
  if (params.entries.data == nullptr) return;

  const int entries_per_page = params.entries.entries_per_page;
  const int32_t* page_table = batch.page_table + static_cast<int64_t>(seq_idx) * batch.page_table_stride;
  const int32_t* selected = params.selected == nullptr ? nullptr : params.selected + row * params.num_selected;
  const int count = limited(params, row, 1, selected == nullptr ? num_visible_entries(position, params.ratio) : params.num_selected);
  for (int i = 0; i < count; ++i) {
    const int entry = selected == nullptr ? i : selected[i];
    if (entry < 0) continue;
    list.push_back(
        entry_bytes(layout, params.entries.data, page_table[entry / entries_per_page], entries_per_page, entry % entries_per_page));
  }
}

// Buffers of one thread.
struct Scratch {
  std::vector<EntryBytes> entries;
  std::vector<float> q;       // [heads, head_dim]
  std::vector<float> keys;    // [num_keys, head_dim]
  std::vector<float> logits;  // [heads, num_keys], then the probabilities
  std::vector<float> out;     // [heads, head_dim]
};

// Bytes of one head's values in `out`, and its scales.
struct HeadBytes {
  size_t values, scales;
};

HeadBytes head_bytes(AttentionOutput output, int head_dim) {
  const size_t dim = static_cast<size_t>(head_dim);
  switch (output) {
    case AttentionOutput::kBf16:
      return {dim * sizeof(Bf16), 0};
    case AttentionOutput::kFp32:
      return {dim * sizeof(float), 0};
    case AttentionOutput::kFp8:
      return {dim, (dim + kAttentionFp8Block - 1) / kAttentionFp8Block};
    case AttentionOutput::kFp4:
      return {dim / 2, dim / kAttentionFp4Block};
  }
  fail("attention: output {}, expected an AttentionOutput", static_cast<int>(output));
}

// Zeros in every format, and −∞ for the LSE.
void write_padding(const AttentionParams& params, int64_t row, int head_begin, int head_end) {
  const HeadBytes bytes = head_bytes(params.output, params.head_dim);
  const size_t first = static_cast<size_t>(row * params.num_heads + head_begin), count = static_cast<size_t>(head_end - head_begin);
  std::memset(static_cast<uint8_t*>(params.out) + first * bytes.values, 0, count * bytes.values);
  if (bytes.scales > 0) std::memset(params.out_scales + first * bytes.scales, 0, count * bytes.scales);
  if (params.lse != nullptr) std::fill_n(params.lse + first, count, -std::numeric_limits<float>::infinity());
}

// Divides one head's weighted sum x [head_dim] by the denominator, rotates it back and writes it as the output asks; head: row·num_heads +
// its index. x is overwritten.
void write_head(const AttentionParams& params, const Rotation& rotation, float denominator, int64_t head, float* x) {
  const int dim = params.head_dim;
  const HeadBytes bytes = head_bytes(params.output, dim);
  uint8_t* out = static_cast<uint8_t*>(params.out) + static_cast<size_t>(head) * bytes.values;
  uint8_t* scales = params.out_scales + (bytes.scales > 0 ? static_cast<size_t>(head) * bytes.scales : 0);
  for (int i = 0; i < dim; ++i) x[i] /= denominator;
  if (params.output == AttentionOutput::kFp32) {
    rotate_inverse_exact(rotation, kRopeDim, x + dim - kRopeDim);
    std::memcpy(out, x, bytes.values);
    return;
  }
  for (int i = 0; i < dim; ++i) x[i] = round_bf16(x[i]);
  rotate_inverse(rotation, kRopeDim, x + dim - kRopeDim);
  if (params.output == AttentionOutput::kFp4) return pack_fp4_row(dim, x, out, scales);
  Bf16 rounded[kAttentionFp8Block];
  for (int begin = 0; begin < dim; begin += kAttentionFp8Block) {
    const int count = std::min(kAttentionFp8Block, dim - begin);
    for (int i = 0; i < count; ++i) rounded[i] = to_bf16(x[begin + i]);
    if (params.output == AttentionOutput::kFp8) {
      quantize_fp8_block(rounded, count, out + begin, scales + begin / kAttentionFp8Block);
    } else {
      std::memcpy(out + begin * sizeof(Bf16), rounded, count * sizeof(Bf16));
    }
  }
}

void attend(const AttentionParams& params, int64_t row, int head_begin, int head_end, Scratch& scratch) {
  const int dim = params.head_dim;
  const int num_heads = head_end - head_begin;
  const KvEntryLayout layout{dim};
  if (params.batch.positions[row] < 0) {  // padding
    return write_padding(params, row, head_begin, head_end);
  }
  list_entries(params, row, scratch.entries);
  const int num_keys = static_cast<int>(scratch.entries.size());
  const int64_t first_head = row * params.num_heads + head_begin;
  const size_t row_values = static_cast<size_t>(num_heads) * dim;

  scratch.q.resize(row_values);
  for (size_t i = 0; i < row_values; ++i) scratch.q[i] = to_float(params.q[first_head * dim + i]);
  scratch.keys.resize(std::max(scratch.keys.size(), static_cast<size_t>(num_keys) * dim));
  for (int key = 0; key < num_keys; ++key) {
    unpack_kv_entry(layout, scratch.entries[key], scratch.keys.data() + static_cast<size_t>(key) * dim);
  }
  scratch.logits.resize(std::max(scratch.logits.size(), static_cast<size_t>(num_heads) * num_keys));
  compute_logits(scratch.q.data(), scratch.keys.data(), num_heads, dim, num_keys, params.softmax_scale, scratch.logits.data());

  float denominators[kHeadsPerItem];
  for (int h = 0; h < num_heads; ++h) {
    float* logits = scratch.logits.data() + static_cast<size_t>(h) * num_keys;
    const Softmax softmax = softmax_with_sink(logits, num_keys, params.sink[head_begin + h]);
    denominators[h] = softmax.denominator;
    if (params.lse != nullptr) params.lse[first_head + h] = softmax.lse;
  }
  scratch.out.assign(row_values, 0.0f);
  accumulate_values(scratch.logits.data(), scratch.keys.data(), num_heads, dim, num_keys, scratch.out.data());

  // Without keys the zeros stay as they are: a turn would give some of them a sign.
  const Rotation rotation = make_rotation(num_keys == 0 ? 0 : params.batch.positions[row], params.freqs, kRopeDim);
  for (int h = 0; h < num_heads; ++h) write_head(params, rotation, denominators[h], first_head + h, scratch.out.data() + h * dim);
}

}  // namespace

void attention(const AttentionParams& params) {
  const int dim = params.head_dim;
  require(dim >= kRopeDim && dim % kKvBlock == 0, "attention: head_dim {}, expected a multiple of {}", dim, kKvBlock);
  require(head_bytes(params.output, dim).scales == 0 || params.out_scales != nullptr, "attention: FP8 and FP4 outputs need out_scales");
  const int groups = (params.num_heads + kHeadsPerItem - 1) / kHeadsPerItem;
  const int64_t work_per_item = 2LL * std::min(params.num_heads, kHeadsPerItem) * (params.window + params.num_selected) * dim;
  parallel_for(int64_t{params.batch.num_tokens} * groups, work_per_item, [&](int64_t begin, int64_t end) {
    Scratch scratch;
    for (int64_t item = begin; item < end; ++item) {
      const int head_begin = static_cast<int>(item % groups) * kHeadsPerItem;
      attend(params, item / groups, head_begin, std::min(head_begin + kHeadsPerItem, params.num_heads), scratch);
    }
  });
}

}  // namespace dsv4::cpu
