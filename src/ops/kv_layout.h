// Byte layouts of the KV cache (spec 4.2, 4.3), parametric in head_dim. The one definition that every reader and writer of cache bytes
// uses.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/weight.h"

namespace dsv4 {

inline constexpr int kRopeDim = 64;         // qk_rope_head_dim: the only value the formats know
inline constexpr int kPagePositions = 256;  // consecutive positions of one sequence in a logical page

// FP8 entry of a main cache (window ring or compressed): e4m3 of the nope dims, bf16 of the rope dims, ue8m0 scales, padding to 4 bytes.
// In a page of P entries the value parts come first (entry j at j·value_bytes), the scale parts after them (P·value_bytes + j·scale_bytes).
struct KvEntryLayout {
  int head_dim;

  constexpr int nope_dim() const { return head_dim - kRopeDim; }
  constexpr int num_scales() const { return nope_dim() / kKvBlock; }
  constexpr size_t value_bytes() const { return static_cast<size_t>(nope_dim()) + kRopeDim * sizeof(Bf16); }
  constexpr size_t scale_bytes() const { return static_cast<size_t>((num_scales() + 3) / 4 * 4); }
  constexpr size_t entry_bytes() const { return value_bytes() + scale_bytes(); }
  // Bytes from one page of `entries` entries to the next: rounded up to a whole number of value parts, as [F] lays pages out.
  constexpr size_t page_bytes(int entries) const {
    const size_t raw = static_cast<size_t>(entries) * entry_bytes();
    return (raw + value_bytes() - 1) / value_bytes() * value_bytes();
  }
  constexpr size_t value_offset(int entry_idx) const { return static_cast<size_t>(entry_idx) * value_bytes(); }
  constexpr size_t scale_offset(int entry_idx, int entries) const {
    return static_cast<size_t>(entries) * value_bytes() + static_cast<size_t>(entry_idx) * scale_bytes();
  }
};

// FP4 entry of the indexer cache: e2m1 pairs (even dim in the low nibble), then one ue8m0 per 32 dims. Pages: values first, then scales.
struct IndexEntryLayout {
  int index_head_dim;

  constexpr size_t value_bytes() const { return static_cast<size_t>(index_head_dim) / 2; }
  constexpr size_t scale_bytes() const { return static_cast<size_t>(index_head_dim) / kIndexerFp4Block; }
  constexpr size_t entry_bytes() const { return value_bytes() + scale_bytes(); }
  constexpr size_t page_bytes(int entries) const { return static_cast<size_t>(entries) * entry_bytes(); }
  constexpr size_t value_offset(int entry_idx) const { return static_cast<size_t>(entry_idx) * value_bytes(); }
  constexpr size_t scale_offset(int entry_idx, int entries) const {
    return static_cast<size_t>(entries) * value_bytes() + static_cast<size_t>(entry_idx) * scale_bytes();
  }
};

static_assert(KvEntryLayout{512}.value_bytes() == 576 && KvEntryLayout{512}.scale_bytes() == 8 && KvEntryLayout{512}.entry_bytes() == 584);
static_assert(KvEntryLayout{512}.page_bytes(64) == 37440 && KvEntryLayout{512}.page_bytes(256) == 149760 &&
              KvEntryLayout{512}.page_bytes(2) == 1728);
static_assert(KvEntryLayout{64}.num_scales() == 0 && KvEntryLayout{64}.entry_bytes() == 128);
static_assert(IndexEntryLayout{128}.entry_bytes() == 68 && IndexEntryLayout{128}.page_bytes(64) == 4352);

// The window entries of every sequence slot of one layer: each slot is one page of `ring_size` entries; position p lives at p mod
// ring_size.
struct WindowRing {
  uint8_t* data = nullptr;  // [num_slots][page_bytes(ring_size)]
  int ring_size = 0;        // entries; ≥ window − 1 + the longest run of one sequence's tokens in a step
};

// A paged cache of one layer: entry c of a sequence is entry (c mod entries_per_page) of physical page page_table[seq][c /
// entries_per_page].
struct PagedEntries {
  uint8_t* data = nullptr;   // [num_pages][page_bytes(entries_per_page)]
  int entries_per_page = 0;  // kPagePositions / ratio
};

}  // namespace dsv4
