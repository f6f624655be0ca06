// The finders of attention: which rows a CTA works on, which keys, and where these are, ahead of the producers and consumers.
#pragma once

#include "backend/cuda/ptx/copy.h"
#include "backend/cuda/ptx/registers.h"
#include "backend/cuda/sm90/attention_keys.h"
#include "backend/cuda/sm90/attention_work.h"

namespace dsv4::cuda {

// Brings Q and the list of a unit into the L2.
template <int kDim>
__device__ __forceinline__ void prefetch_row(const Arguments& args, int unit, int thread) {
  constexpr int kLineBytes = 128;
  if (unit >= args.num_units) return;
  const AttentionParams& params = args.params;
  const OutputHeads heads = heads_of(args, unit);
  const Bf16* q = params.q + (static_cast<int64_t>(heads.row) * params.num_heads + heads.head_begin) * kDim;
  const int num_lines = heads.num_heads * kDim * static_cast<int>(sizeof(Bf16)) / kLineBytes;
#pragma unroll 1
  for (int i = thread; i < num_lines; i += kFinders) ptx::prefetch_l2(reinterpret_cast<const uint8_t*>(q) + i * kLineBytes);
  if (params.selected == nullptr) return;
  const uint8_t* selected = reinterpret_cast<const uint8_t*>(params.selected + static_cast<int64_t>(heads.row) * params.num_selected);
#pragma unroll 1
  for (int i = thread * kLineBytes; i < params.num_selected * 4; i += kFinders * kLineBytes) ptx::prefetch_l2(selected + i);
}

// Begins to copy the scales of a key, and says so at `barrier` when they are there.
template <int kDim>
__device__ __forceinline__ void load_scales(const uint8_t* scales, uint2& place, uint64_t* barrier) {
  constexpr int kScaleBytes = static_cast<int>(KvEntryLayout{kDim}.scale_bytes());
  if constexpr (kScaleBytes > 0) {
    ptx::async_load_small<kScaleBytes>(ptx::shared_address(&place), scales, scales != nullptr);
    ptx::async_load_arrive(barrier);
  } else {
    ptx::mbarrier_arrive(barrier);
  }
}

// What the output of a row needs; a warp calls it.
__device__ __forceinline__ void find_output(const AttentionParams& params, const Work& work, int lane, RowOutput& output) {
  static_assert(kRopeDim / 2 == 32 && kHeadTile == 64, "one pair and two heads per lane");
#pragma unroll
  for (int i = 0; i < kHeadTile / 32; ++i) {
    const int head = lane + 32 * i;
    if (head < work.heads.num_heads) output.sinks[head] = params.sink[work.heads.head_begin + head] * kLog2E;
  }
  output.rotations[lane] = rope_rotation(work.position, params.freqs[lane]);
}

__device__ __forceinline__ int this_finder() {
  return ptx::thread_here() - kConsumers - kProducers;
}

// The rotated dims of a piece's keys into shared memory, copied as they are and changed in their place, and which keys there are. `turn`:
// the piece.
template <int kDim>
__device__ __forceinline__ void move_rotated(SharedMemory<kDim>& shared, uint32_t turn) {
  using U = Units<kDim>;
  constexpr int kSlot = U::kRotatedSlot, kKeys = kTileKeys * 4 / kFinders;  // of a thread and tile
  const KeyPlaces& places = shared.places[turn % 2];
  ptx::mbarrier_wait(&shared.places_full[turn % 2], turn / 2 % 2);
#pragma unroll 1
  for (int tile = 0; tile < shared.num_tiles[turn % 2]; ++tile) {
    const int finder = this_finder();
    const uint8_t* const* values = places.values + tile * kTileKeys;
    const uint32_t chunk = ptx::shared_address(shared.keys[tile][kSlot]) + swizzled_offset(finder / 4, 2 * (finder % 4));
    ptx::mbarrier_wait(&shared.empty[tile][kSlot], turn % 2 ^ 1);
#pragma unroll
    for (int i = 0; i < kKeys; ++i) {
      constexpr int kStep = kTileKeys / kKeys;
      const uint8_t* value = values[finder / 4 + i * kStep];
      const uint8_t* from = value + U::kCoded * kBlockDims + finder % 4 * 32;
      const uint32_t to = chunk + i * kStep * kSwizzleRowBytes;
      ptx::async_load_16_of_256(to, from, value != nullptr);
      ptx::async_load_16_of_256(to ^ 16, from + 16, value != nullptr);
    }
    if (finder < kTileKeys) {  // a block is freed when the mask of its tile has been read
      const uint32_t mask = __ballot_sync(0xffffffffu, values[finder] != nullptr);
      if (finder % 32 == 0) (finder == 0 ? shared.key_masks[tile].x : shared.key_masks[tile].y) = mask;
    }
    ptx::async_load_wait_all();
#pragma unroll
    for (int i = 0; i < kKeys; ++i) convert_in_place(chunk + i * (kTileKeys / kKeys) * kSwizzleRowBytes);
    ptx::mbarrier_arrive(&shared.full[tile][kSlot / 2]);
  }
  ptx::mbarrier_arrive(&shared.places_empty[turn % 2]);
}

// Where the keys of a piece of `num_tiles` tiles of a row are, for the producers, as the CTA's piece `turn`. `key`: the finder's.
template <int kDim, bool kPrefetches = true>
__device__ __forceinline__ void find_places(const Arguments& args, SharedMemory<kDim>& shared, const Work& work, int key, int num_tiles,
                                            uint32_t turn) {
  const int entry = find_entry(args, work, key);
  const EntryPlace place = locate<kDim>(args, work, key, entry, find_page(args, work, key, entry));
  if (kPrefetches && turn == 0 && entry >= 0) prefetch_entry<kDim>(place);
  KeyPlaces& places = shared.places[turn % 2];
  ptx::mbarrier_wait(&shared.places_empty[turn % 2], turn / 2 % 2 ^ 1);
  places.values[this_finder()] = place.values;
  if (this_finder() == 0) shared.num_tiles[turn % 2] = num_tiles;
  ptx::mbarrier_arrive(&shared.places_full[turn % 2]);
  load_scales<kDim>(place.scales, places.scales[this_finder()], &shared.scales_full[turn % 2]);
}

// Says that there is no piece `turn`.
template <int kDim>
__device__ __forceinline__ void end_places(SharedMemory<kDim>& shared, uint32_t turn) {
  ptx::mbarrier_wait(&shared.places_empty[turn % 2], turn / 2 % 2 ^ 1);
  shared.places[turn % 2].values[this_finder()] = nullptr;
  if (this_finder() == 0) shared.num_tiles[turn % 2] = 0;
  ptx::mbarrier_arrive(&shared.places_full[turn % 2]);
}

// What a row needs beside its keys: its Q, when the keys of the row before are multiplied (the first row's the consumers load), and what
// its output needs. Q and the list of the unit after it are brought to the L2.
template <int kDim>
__device__ __forceinline__ void find_rest(const Arguments& args, SharedMemory<kDim>& shared, const Work& work, uint32_t row, int unit) {
  if (row > 0) {
    ptx::mbarrier_wait(&shared.q_empty, row % 2 ^ 1);
    QueryCopy<kDim, kFinders>::begin(args.params, work.heads, shared, this_finder());
  }
  if (this_finder() >= kFinders - 32) {
    find_output(args.params, work, this_finder() % 32, shared.outputs[row % 2]);
    ptx::mbarrier_arrive(&shared.output_full[row % 2]);
  }
  prefetch_row<kDim>(args, unit + first_turn(args).step, this_finder());
  if (row > 0) {
    QueryCopy<kDim, kFinders>::end(shared, this_finder());
    ptx::mbarrier_arrive(&shared.q_full);
  }
}

// The finders: the work on the CTA's rows; where the keys of their pieces are, a thread a key, a piece ahead; the rotated dims of the keys;
// and Q of rows but the first, as soon as the keys of the row before are multiplied. Nobody waits at a barrier by a parity that can come
// round again before he has seen it: a row's Q needs all finders, so that they are in the same row; what is there in turns is found again
// when the consumers have multiplied the keys of the row between.
template <int kDim>
__device__ __forceinline__ void find_keys(const Arguments& args, SharedMemory<kDim>& shared) {
  uint32_t row = 0, turn = 0, num_moved = 0;  // rows, pieces, pieces whose rotated dims are moved, so far
#pragma unroll 1
  for (int unit = first_turn(args).unit; unit < args.num_units; unit += first_turn(args).step, ++row) {
    Work& work = shared.works[row % 4];
    if (this_finder() == 0) {
      work = find_work(args, unit, first_turn(args).rank);
      ptx::mbarrier_arrive(&shared.work_full[row % 2]);
    }
    ptx::mbarrier_wait(&shared.work_full[row % 2], row / 2 % 2);
    int piece = work.piece_begin;
#pragma unroll 1
    do {
      uint32_t moved_end = turn;  // all of the row before; then one behind, but for the first one
      if (piece < work.piece_end) {
        find_places(args, shared, work, piece * kPieceKeys + this_finder(), kTiles, turn);
        if (turn++ == 0) moved_end = 1;
      }
#pragma unroll 1
      for (; num_moved < moved_end; ++num_moved) move_rotated(shared, num_moved);
      if (piece > work.piece_begin) continue;
      find_rest(args, shared, work, row, unit);
    } while (++piece < work.piece_end);
  }
  end_places(shared, turn);
  if (num_moved < turn) move_rotated(shared, num_moved);
  ptx::async_load_wait_all();
}

}  // namespace dsv4::cuda
