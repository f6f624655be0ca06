// Which keys of which row a CTA of attention works on, and where they are. A row's keys come in pieces of two tiles, pieces in groups. The
// sums of a group's tiles are added in one order, then those of the groups, whoever has them.
#pragma once

#include "backend/cuda/block/attention_output.h"
#include "backend/cuda/block/divisor.h"
#include "backend/cuda/block/key_tile.h"
#include "backend/cuda/ptx/copy.h"
#include "backend/cuda/sm90/attention_plan.h"
#include "ops/attention.h"

namespace dsv4::cuda {

struct Arguments {
  AttentionParams params;
  size_t ring_page_bytes;
  size_t entry_page_bytes;
  float logit_scale;   // softmax_scale·log2(e): exponentials are powers of two
  int num_units;       // rows × tiles of heads × sets of columns
  int split;           // CTAs that share a unit's keys
  int num_pieces;      // of the longest row that there may be
  PartCounts counts;   // of that row
  int max_parts;       // of a unit in scratch memory
  float4* parts;       // [unit, max_parts, vector, thread]; without sharing [CTA, max_parts, vector, thread]
  PartSum* part_sums;  // the same with [2, thread]
  bool is_cluster;     // those CTAs, or a team's, wait for each other as a cluster
  uint32_t* arrivals;  // of those CTAs, by unit, where they are no cluster
  uint8_t* images;     // of P, of teams: [team, team_tiles] TileImage
  int team_tiles;
  uint32_t* image_counts;  // [team, kTeamCounters]: arrivals of the warps that write a tile's image; the last one: of CTAs that leave
  Divisor columns;
  Divisor members;  // CTAs of a team; 1: there are none
  Divisor head_tiles;
  Divisor splits;
  Divisor ring_size;
  Divisor ratio;
  Divisor entries_per_page;
};

// The part of a CTA's pieces that is being summed up, and the tile of the row before which it ends.
struct Part {
  int index;
  int tile_end;
};

// What a CTA works on; the same in all its threads.
struct Work {
  OutputHeads heads;
  int unit;
  int column;    // set of columns
  int member;    // of a team; from the number of sets of columns on: it has none
  int position;  // −1: padding
  int seq_idx;
  int first_place;             // of the window in the ring
  int num_window, num_keys;    // of the row
  PartCounts counts;           // of the row
  int piece_begin, piece_end;  // of this CTA
  Part first_part;             // of this CTA

  __device__ __forceinline__ bool has_pieces() const { return piece_begin < piece_end; }
};

__device__ __forceinline__ int group_begin(const Work& work, int group) {
  return group * work.counts.group_pieces + min(group, work.counts.num_longer);
}

// The pieces of the CTAs before CTA `i` of those `num_ctas` that share a group of `num_pieces`.
__device__ __forceinline__ int pieces_before(int num_pieces, int num_ctas, int i) {
  return small_quotient(num_pieces * i + num_ctas - 1, num_ctas);
}

// The pieces of CTA `rank` of the unit's, and its first part.
__device__ __forceinline__ void find_pieces(const Arguments& args, int rank, Work& work) {
  const int num_groups = work.counts.num_groups, group_ctas = work.counts.group_ctas;
  work.piece_begin = work.piece_end = 0;
  work.first_part = {0, 0};
  if (num_groups == 0) return;
  if (group_ctas == 0) {
    const int group = args.splits.quotient(num_groups * rank + args.split - 1);
    work.piece_begin = group_begin(work, group);
    work.piece_end = group_begin(work, args.splits.quotient(num_groups * (rank + 1) + args.split - 1));
    work.first_part = {group, group_begin(work, group + 1) * kTiles};
    return;
  }
  const int num_larger = work.counts.num_larger, in_larger = num_larger * (group_ctas + 1);
  const int group = rank < in_larger ? small_quotient(rank, group_ctas + 1) : num_larger + small_quotient(rank - in_larger, group_ctas);
  const int i = rank < in_larger ? rank - group * (group_ctas + 1) : rank - in_larger - (group - num_larger) * group_ctas;
  const int begin = group_begin(work, group), num_pieces = work.counts.pieces(group), num_ctas = work.counts.ctas(group);
  const int before = pieces_before(num_pieces, num_ctas, i);
  work.piece_begin = begin + before;
  work.piece_end = begin + pieces_before(num_pieces, num_ctas, i + 1);
  const int first_part = group * work.counts.group_parts();
  work.first_part = i == 0
                        ? Part{first_part, work.piece_end * kTiles}
                        : Part{first_part + 1 + (before - pieces_before(num_pieces, num_ctas, 1)) * kTiles, work.piece_begin * kTiles + 1};
}

// The part after the one that has been handed over.
__device__ __forceinline__ Part next_part(const Work& work, const Part& part) {
  return {part.index + 1, work.counts.group_ctas == 0 ? group_begin(work, part.index + 2) * kTiles : part.tile_end + 1};
}

// The heads of a unit.
__device__ __forceinline__ OutputHeads heads_of(const Arguments& args, int unit) {
  const int tile = args.columns.quotient(unit), row = args.head_tiles.quotient(tile);
  const int begin = (tile - row * static_cast<int>(args.head_tiles.value)) * kHeadTile;
  return {row, static_cast<int16_t>(begin), static_cast<int16_t>(min(args.params.num_heads - begin, kHeadTile))};
}

// The row, heads, columns and pieces of CTA, or team, `rank` of a unit.
__device__ __forceinline__ Work find_work(const Arguments& args, int unit, int rank) {
  const AttentionParams& params = args.params;
  Work work;
  work.unit = unit;
  const int tile = args.columns.quotient(unit);
  work.column = unit - tile * static_cast<int>(args.columns.value);
  work.member = 0;
  work.heads = heads_of(args, unit);
  work.position = ptx::load_here(params.batch.positions + work.heads.row);
  work.seq_idx = ptx::load_here(params.batch.seq_idx + work.heads.row);
  int most_window = params.window, most_entries = 1 << 30;
  if (params.key_counts != nullptr) {
    most_window = max(0, ptx::load_here(params.key_counts + 2 * static_cast<int64_t>(work.heads.row)));
    most_entries = max(0, ptx::load_here(params.key_counts + 2 * static_cast<int64_t>(work.heads.row) + 1));
  }
  const int num_positions = max(work.position, -1) + 1;
  int num_entries = 0;
  if (params.entries.data != nullptr) {
    const int num_visible = args.ratio.quotient(num_positions);
    num_entries = params.selected == nullptr ? num_visible : min(num_visible, params.num_selected);
  }
  work.num_window = min(min(num_positions, params.window), most_window);
  work.first_place = args.ring_size.remainder(num_positions - work.num_window);
  work.num_keys = work.num_window + min(num_entries, most_entries);
  const int num_pieces = (work.num_keys + kPieceKeys - 1) / kPieceKeys;
  const bool is_team = args.columns.value > 1;  // which has whole groups
  work.counts = num_pieces == args.num_pieces
                    ? args.counts
                    : count_parts(num_pieces, is_team ? min(args.split, num_piece_groups(num_pieces)) : args.split);
  find_pieces(args, rank, work);
  return work;
}

// Index of a key in its cache: the place in the ring or the entry of the sequence; −1: none.
__device__ __forceinline__ int find_entry(const Arguments& args, const Work& work, int key) {
  if (key >= work.num_keys) return -1;
  if (key < work.num_window) {
    const int place = work.first_place + key;
    return place < args.params.ring.ring_size ? place : place - args.params.ring.ring_size;
  }
  const int i = key - work.num_window;
  if (args.params.selected == nullptr) return i;
  return ptx::load_here(args.params.selected + static_cast<int64_t>(work.heads.row) * args.params.num_selected + i);
}

// The page that `entry` of the sequence is in; of a key of the window the slot of its ring.
__device__ __forceinline__ int find_page(const Arguments& args, const Work& work, int key, int entry) {
  if (entry < 0) return 0;
  const BatchView& batch = args.params.batch;
  const int32_t* page_table = batch.page_table + static_cast<int64_t>(work.seq_idx) * batch.page_table_stride;
  return ptx::load_here(key < work.num_window ? batch.slots + work.seq_idx : page_table + args.entries_per_page.quotient(entry));
}

// Where an entry is; nullptr: there is none.
struct EntryPlace {
  const uint8_t* values;
  const uint8_t* scales;
};

template <int kDim>
__device__ __forceinline__ EntryPlace locate(const Arguments& args, const Work& work, int key, int entry, int page_idx) {
  if (entry < 0) return {nullptr, nullptr};
  constexpr KvEntryLayout kLayout{kDim};
  const AttentionParams& params = args.params;
  const bool in_window = key < work.num_window;
  const int entries_per_page = in_window ? params.ring.ring_size : params.entries.entries_per_page;
  const uint8_t* page = in_window ? params.ring.data + static_cast<size_t>(page_idx) * args.ring_page_bytes
                                  : params.entries.data + static_cast<size_t>(page_idx) * args.entry_page_bytes;
  const int in_page = in_window ? entry : args.entries_per_page.remainder(entry);
  return {page + kLayout.value_offset(in_page), page + kLayout.scale_offset(in_page, entries_per_page)};
}

// Brings an entry into the L2.
template <int kDim>
__device__ __forceinline__ void prefetch_entry(const EntryPlace& place) {
  ptx::bulk_prefetch_l2(place.values, KvEntryLayout{kDim}.value_bytes());
  ptx::prefetch_l2(place.scales);
}

}  // namespace dsv4::cuda
