// Cache entries to and from numbers (spec 3.3, 3.4, 4.2, 4.3): the one place that quantises and reads entries. Used by kv_store, compress,
// indexer_query, index_scores and attention.
#pragma once

#include <cstdint>

#include "ops/kv_layout.h"

namespace dsv4::cpu {

// Addresses of one entry's two parts within a cache.
struct EntryBytes {
  uint8_t* values;
  uint8_t* scales;
};

// Entry `entry_idx` of page `page_idx` of a cache whose pages hold `entries_per_page` entries. Layout: KvEntryLayout or IndexEntryLayout.
template <class Layout>
EntryBytes entry_bytes(const Layout& layout, uint8_t* data, int64_t page_idx, int entries_per_page, int entry_idx) {
  uint8_t* page = data + static_cast<size_t>(page_idx) * layout.page_bytes(entries_per_page);
  return {page + layout.value_offset(entry_idx), page + layout.scale_offset(entry_idx, entries_per_page)};
}

// Quantises x [head_dim] (bf16 values) into an FP8 entry: e4m3 in blocks of 64, bf16 rope dims, scales, zero padding.
void pack_kv_entry(const KvEntryLayout& layout, const float* x, EntryBytes entry);

// Reads an FP8 entry into x [head_dim]; every result is a bf16 value.
void unpack_kv_entry(const KvEntryLayout& layout, EntryBytes entry, float* x);

// Quantises x [dim] (bf16 values) into e2m1 pairs [dim/2] and ue8m0 scales [dim/32].
void pack_fp4_row(int dim, const float* x, uint8_t* codes, uint8_t* scales);

// Twice the value of an e2m1 code: 0 ±1 ±2 ±3 ±4 ±6 ±8 ±12. Products of codes are then exact in integers.
inline constexpr int8_t kTwiceE2M1[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

}  // namespace dsv4::cpu
