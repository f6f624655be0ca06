// Which keys of which row a CTA of attention works on, and where they are. A row's keys come in tiles; the sums of tiles are added in one
// order, whoever has them: long rows in groups, each for itself and then one after another.
#pragma once

#include "backend/cuda/block/attention_output.h"
#include "backend/cuda/block/divisor.h"
#include "backend/cuda/block/key_tile.h"
#include "backend/cuda/ptx/cluster.h"
#include "backend/cuda/sm90/attention_plan.h"
#include "ops/attention.h"

namespace dsv4::cuda {

struct Arguments {
  AttentionParams params;
  size_t ring_page_bytes;
  size_t entry_page_bytes;
  float logit_scale;   // softmax_scale·log2(e): exponentials are powers of two
  int num_units;       // rows × tiles of heads × sets of columns
  int split;           // CTAs of a cluster, which share a unit's keys
  bool shares_short;   // those of a short row, too
  int max_parts;       // of a unit in scratch memory
  float4* parts;       // [unit, max_parts, vector, thread]; without sharing [CTA, max_parts, vector, thread]
  PartSum* part_sums;  // the same with [2, thread]
  Divisor columns;
  Divisor head_tiles;
  Divisor splits;
  Divisor ring_size;
  Divisor ratio;
  Divisor entries_per_page;
};

__device__ __forceinline__ int cluster_rank() {
  return static_cast<int>(ptx::cluster_rank());
}
__device__ __forceinline__ int cluster_index() {
  return static_cast<int>(ptx::cluster_index());
}
__device__ __forceinline__ int num_clusters() {
  return static_cast<int>(ptx::num_clusters());
}

// A load that the compiler leaves where it is: loads that do not wait for each other's values are then under way together.
__device__ __forceinline__ int load_here(const int32_t* address) {
  return *static_cast<const volatile int32_t*>(address);
}

// What a CTA works on; the same in all its threads.
struct Work {
  OutputHeads heads;
  int unit;
  int column;  // set of columns
  int position;
  int seq_idx;
  int num_window, num_keys;
  int num_tiles, num_groups;  // of the row
  int tile_begin, tile_end;   // of this CTA
};

__device__ __forceinline__ int group_begin(const Work& work, int group) {
  return work.num_groups == 1 ? group * work.num_tiles : static_cast<int>(static_cast<int64_t>(work.num_tiles) * group / kLongGroups);
}

// The first tile of rank `rank`: of a long row whole groups are handed over.
__device__ __forceinline__ int run_begin(const Arguments& args, const Work& work, int rank) {
  if (work.num_groups == 1 && !args.shares_short) return rank == 0 ? 0 : work.num_tiles;
  const int items = work.num_groups == 1 ? work.num_tiles : work.num_groups;
  const int begin = args.splits.quotient(items * rank + args.split - 1);
  return work.num_groups == 1 ? begin : group_begin(work, begin);
}

// The row, heads and columns of a unit and the tiles of rank `rank`; false for padding.
__device__ __forceinline__ bool find_work(const Arguments& args, int unit, int rank, Work& work) {
  const AttentionParams& params = args.params;
  work.unit = unit;
  const int tile = args.columns.quotient(unit);
  work.column = unit - tile * static_cast<int>(args.columns.value);
  work.heads.row = args.head_tiles.quotient(tile);
  work.position = load_here(params.batch.positions + work.heads.row);
  work.seq_idx = load_here(params.batch.seq_idx + work.heads.row);
  int most_window = params.window, most_entries = 1 << 30;
  if (params.key_counts != nullptr) {
    most_window = max(0, load_here(params.key_counts + 2 * static_cast<int64_t>(work.heads.row)));
    most_entries = max(0, load_here(params.key_counts + 2 * static_cast<int64_t>(work.heads.row) + 1));
  }
  work.heads.head_begin = (tile - work.heads.row * static_cast<int>(args.head_tiles.value)) * kHeadTile;
  work.heads.num_heads = min(params.num_heads - work.heads.head_begin, kHeadTile);
  if (work.position < 0) return false;
  int num_entries = 0;
  if (params.entries.data != nullptr) {
    const int num_visible = args.ratio.quotient(work.position + 1);
    num_entries = params.selected == nullptr ? num_visible : min(num_visible, params.num_selected);
  }
  work.num_window = min(min(work.position + 1, params.window), most_window);
  work.num_keys = work.num_window + min(num_entries, most_entries);
  work.num_tiles = (work.num_keys + kTileKeys - 1) / kTileKeys;
  work.num_groups = num_key_groups(work.num_tiles);
  work.tile_begin = args.split == 1 ? 0 : run_begin(args, work, rank);
  work.tile_end = args.split == 1 ? work.num_tiles : run_begin(args, work, rank + 1);
  return true;
}

// Where the keys of a row are. Pointers are made of it where they are needed: they would take too many registers.
struct KeySource {
  int slot;
  int first_place;  // of the window in the ring
};

__device__ __forceinline__ KeySource key_source(const Arguments& args, const Work& work) {
  return {load_here(args.params.batch.slots + work.seq_idx), args.ring_size.remainder(work.position - work.num_window + 1)};
}

// Index of a key in its cache: the place in the ring or the entry of the sequence; −1: none.
__device__ __forceinline__ int find_entry(const Arguments& args, const Work& work, const KeySource& source, int key) {
  if (key >= work.num_keys) return -1;
  if (key < work.num_window) {
    const int place = source.first_place + key;
    return place < args.params.ring.ring_size ? place : place - args.params.ring.ring_size;
  }
  const int i = key - work.num_window;
  if (args.params.selected == nullptr) return i;
  return args.params.selected[static_cast<int64_t>(work.heads.row) * args.params.num_selected + i];
}

template <int kDim>
__device__ __forceinline__ EntryPlace locate(const Arguments& args, const Work& work, const KeySource& source, int key, int entry) {
  if (entry < 0) return {nullptr, nullptr};
  constexpr KvEntryLayout kLayout{kDim};
  const AttentionParams& params = args.params;
  if (key < work.num_window) {
    const uint8_t* ring = params.ring.data + static_cast<size_t>(source.slot) * args.ring_page_bytes;
    return {ring + kLayout.value_offset(entry), ring + kLayout.scale_offset(entry, params.ring.ring_size)};
  }
  const int entries_per_page = params.entries.entries_per_page;
  const int32_t* page_table = params.batch.page_table + static_cast<int64_t>(work.seq_idx) * params.batch.page_table_stride;
  const int page_idx = args.entries_per_page.quotient(entry);
  const uint8_t* page = params.entries.data + static_cast<size_t>(page_table[page_idx]) * args.entry_page_bytes;
  const int in_page = entry - page_idx * entries_per_page;
  return {page + kLayout.value_offset(in_page), page + kLayout.scale_offset(in_page, entries_per_page)};
}

// How the parts of a row lie in scratch memory: of a long row group by group; else of rank 0 all tiles together, of the others each tile.
struct PartMap {
  int first_tiles;  // of part 0
  int num_parts;
};

__device__ __forceinline__ PartMap part_map(const Arguments& args, const Work& work) {
  if (work.num_tiles == 0) return {0, 0};
  if (work.num_groups > 1) return {0, work.num_groups};
  const int first_tiles = run_begin(args, work, 1);
  return {first_tiles, work.num_tiles - first_tiles + 1};
}

// Whether part `part` is the last one of a group.
__device__ __forceinline__ bool ends_group(const Work& work, const PartMap& map, int part) {
  return work.num_groups > 1 || part + 1 == map.num_parts;
}

// The part of a CTA's tiles that is being summed up, and the tile before which it ends.
struct Part {
  int index;
  int tile_end;
};

__device__ __forceinline__ Part first_part(const Arguments& args, const Work& work, int rank) {
  if (args.split == 1) return {0, group_begin(work, 1)};
  if (work.num_groups == 1) {
    if (rank == 0) return {0, work.tile_end};
    return {work.tile_begin - run_begin(args, work, 1) + 1, work.tile_begin + 1};
  }
  const int group = args.splits.quotient(work.num_groups * rank + args.split - 1);
  return {group, group_begin(work, group + 1)};
}

// The part after the one that has been handed over.
__device__ __forceinline__ Part next_part(const Arguments& args, const Work& work, const Part& part) {
  return {part.index + 1, args.split > 1 && work.num_groups == 1 ? part.tile_end + 1 : group_begin(work, part.index + 2)};
}

}  // namespace dsv4::cuda
