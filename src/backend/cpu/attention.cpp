// One work item is one row and a group of heads: the row's keys are decoded to fp32 once, then logits, softmax and the weighted sum run
// over them in tiles that stay in cache. Every sum has an order of its own: logits over the dims in 16 lanes, the rest in the order of the
// keys.
#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/cpu/kv_codec.h"
#include "backend/cpu/leaf.h"
#include "backend/cpu/ops.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/rope.h"
#include "base/error.h"

namespace dsv4::cpu {
namespace {

inline constexpr int kHeadsPerItem = 16;
inline constexpr int kHeadGroup = 4;  // heads that share the loads of a key
inline constexpr int kKeyTile = 64;
inline constexpr int kLanes = 16;

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

// Turns one head's logits into probabilities relative to their maximum; returns the fp32 denominator with the sink.
float softmax_with_sink(float* logits, int num_keys, float sink) {
  const float max = max_of(logits, num_keys);
  float sum = 0.0f;
  for (int key = 0; key < num_keys; ++key) {
    const float p = std::exp(logits[key] - max);
    sum += p;
    logits[key] = p;
  }
  return sum + std::exp(sink - max);
}

// The entries of one row in the order of the contract: window in ascending position, then compressed entries.
void list_entries(const AttentionParams& params, int64_t row, std::vector<EntryBytes>& list) {
  const BatchView& batch = params.batch;
  const KvEntryLayout layout{params.head_dim};
  const int seq_idx = batch.seq_idx[row];
  const int position = batch.positions[row];
  list.clear();
  for (int p = std::max(position - params.window + 1, 0); p <= position; ++p) {
    list.push_back(entry_bytes(layout, params.ring.data, batch.slots[seq_idx], params.ring.ring_size, p % params.ring.ring_size));
  }
  if (params.entries.data == nullptr) return;

  const int entries_per_page = params.entries.entries_per_page;
  const int32_t* page_table = batch.page_table + static_cast<int64_t>(seq_idx) * batch.page_table_stride;
  const int32_t* selected = params.selected == nullptr ? nullptr : params.selected + row * params.num_selected;
  const int count = selected == nullptr ? num_visible_entries(position, params.ratio) : params.num_selected;
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

void attend(const AttentionParams& params, int64_t row, int head_begin, int head_end, Scratch& scratch) {
  const int dim = params.head_dim;
  const int num_heads = head_end - head_begin;
  const KvEntryLayout layout{dim};
  if (params.batch.positions[row] < 0) {  // padding
    std::fill_n(static_cast<Bf16*>(params.out) + (row * params.num_heads + head_begin) * dim, num_heads * dim, Bf16{});
    return;
  }
  list_entries(params, row, scratch.entries);
  const int num_keys = static_cast<int>(scratch.entries.size());
  const int64_t first = (row * params.num_heads + head_begin) * dim;
  const size_t row_values = static_cast<size_t>(num_heads) * dim;

  scratch.q.resize(row_values);
  for (size_t i = 0; i < row_values; ++i) scratch.q[i] = to_float(params.q[first + i]);
  scratch.keys.resize(std::max(scratch.keys.size(), static_cast<size_t>(num_keys) * dim));
  for (int key = 0; key < num_keys; ++key) {
    unpack_kv_entry(layout, scratch.entries[key], scratch.keys.data() + static_cast<size_t>(key) * dim);
  }
  scratch.logits.resize(std::max(scratch.logits.size(), static_cast<size_t>(num_heads) * num_keys));
  compute_logits(scratch.q.data(), scratch.keys.data(), num_heads, dim, num_keys, params.softmax_scale, scratch.logits.data());

  float denominators[kHeadsPerItem];
  for (int h = 0; h < num_heads; ++h) {
    denominators[h] = softmax_with_sink(scratch.logits.data() + static_cast<size_t>(h) * num_keys, num_keys, params.sink[head_begin + h]);
  }
  scratch.out.assign(row_values, 0.0f);
  accumulate_values(scratch.logits.data(), scratch.keys.data(), num_heads, dim, num_keys, scratch.out.data());

  const Rotation rotation = make_rotation(params.batch.positions[row], params.freqs, kRopeDim);
  for (int h = 0; h < num_heads; ++h) {
    float* out = scratch.out.data() + h * dim;
    for (int i = 0; i < dim; ++i) out[i] = round_bf16(out[i] / denominators[h]);
    rotate_inverse(rotation, kRopeDim, out + layout.nope_dim());
    for (int i = 0; i < dim; ++i) static_cast<Bf16*>(params.out)[first + h * dim + i] = to_bf16(out[i]);
  }
}

}  // namespace

void attention(const AttentionParams& params) {
  const int dim = params.head_dim;
  require(dim >= kRopeDim && dim % kKvBlock == 0, "attention: head_dim {}, expected a multiple of {}", dim, kKvBlock);
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
