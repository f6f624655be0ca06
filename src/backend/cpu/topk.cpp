#include <algorithm>
#include <numeric>
#include <vector>

#include "backend/cpu/leaf.h"
#include "backend/cpu/ops.h"
#include "backend/cpu/parallel.h"
#include "ops/batch.h"

namespace dsv4::cpu {
namespace {

inline constexpr int kCountChunk = 1 << 15;

// Maps scores to integers of the same order; −0 becomes +0, so that the two tie.
template <int kBytes>
DSV4_INLINE void sortable_keys_wide(const Bf16* scores, int count, uint16_t* keys) {
  for (int i = 0; i < count; ++i) {
    const uint16_t bits = scores[i].bits == 0x8000u ? uint16_t{0} : scores[i].bits;
    const uint16_t flip = (bits & 0x8000u) ? uint16_t{0xffff} : uint16_t{0x8000};
    keys[i] = bits ^ flip;
  }
}

DSV4_LEAF(sortable_keys, (const Bf16* scores, int count, uint16_t* keys), (scores, count, keys))

template <int kBytes>
DSV4_INLINE void count_keys_wide(const uint16_t* keys, int count, uint16_t threshold, int* total) {
  *total = 0;
  for (int begin = 0; begin < count; begin += kCountChunk) {
    const int end = std::min(begin + kCountChunk, count);
    uint16_t chunk_total = 0;  // as narrow as the keys, so that a register holds as many counters as keys
    for (int i = begin; i < end; ++i) chunk_total = static_cast<uint16_t>(chunk_total + (keys[i] >= threshold ? 1 : 0));
    *total += chunk_total;
  }
}

DSV4_LEAF(count_keys, (const uint16_t* keys, int count, uint16_t threshold, int* total), (keys, count, threshold, total))

int count_at_least(const uint16_t* keys, int count, uint16_t threshold) {
  int total;
  count_keys(keys, count, threshold, &total);
  return total;
}

// Writes the `topk` entries with the largest keys in ascending order; topk < count.
void select_largest(const uint16_t* keys, int count, int topk, int32_t* selected) {
  // The largest threshold that still keeps topk entries is the topk-th largest key; its bits are found from the top.
  uint16_t threshold = 0;
  for (int bit = 15; bit >= 0; --bit) {
    const uint16_t candidate = static_cast<uint16_t>(threshold | (1u << bit));
    if (count_at_least(keys, count, candidate) >= topk) threshold = candidate;
  }
  // Of the entries at the threshold the latest are kept: skip the first ones.
  int ties_to_skip = count_at_least(keys, count, threshold) - topk;
  int num_selected = 0;
  for (int entry = 0; num_selected < topk; ++entry) {
    if (keys[entry] < threshold) continue;
    if (keys[entry] == threshold && ties_to_skip > 0) {
      --ties_to_skip;
      continue;
    }
    selected[num_selected++] = entry;
  }
}

}  // namespace

void topk(const TopkParams& params) {
  constexpr int64_t kPassesOverKeys = 20;
  const int k = params.topk;
  parallel_for(params.row_end - params.row_begin, kPassesOverKeys * params.score_stride / 16, [&](int64_t begin, int64_t end) {
    std::vector<uint16_t> keys;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = params.row_begin + i;
      int32_t* selected = params.selected + row * k;
      const int num_visible = std::max(num_visible_entries(params.positions[row], params.ratio), 0);  // 0: padding
      if (num_visible <= k) {
        std::iota(selected, selected + num_visible, 0);
        std::fill(selected + num_visible, selected + k, -1);
        continue;
      }
      keys.resize(num_visible);
      sortable_keys(params.scores + i * params.score_stride, num_visible, keys.data());
      select_largest(keys.data(), num_visible, k, selected);
    }
  });
}

}  // namespace dsv4::cpu
