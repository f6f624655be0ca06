// A team: CTAs that have a group of a row's pieces (up to 1,152 keys) in common, each with a set of columns of the output. S and the
// softmax of every tile are one CTA's work, P of the tile is for all of them, and every CTA multiplies it with V of its columns, tile by
// tile in the order of the row. So nothing but P goes from CTA to CTA, and the sums are those of a CTA that is alone, bit by bit.
//
//   first   S of tiles c, c + C, … of the group by CTA c of C: keys and Q in shared memory as ever. P and its sums → global memory, as an
//           image of the registers; whoever has stored one counts there.
//   second  Q's place: blocks of V of the CTA's columns, 64 dims × 64 keys, 8 at a time; keys' place: images of P, 7 at a time, by bulk
//           copies; P's place: where the keys of all tiles are.
//
// A CTA has one row. All CTAs of a team are resident: a launch of teams has no more CTAs than there are SMs, and the next kernel of the
// stream begins only when all have begun; or they are a cluster.
#pragma once

#include "backend/cuda/block/key_tile.h"
#include "backend/cuda/ptx/cluster.h"
#include "backend/cuda/ptx/copy.h"
#include "backend/cuda/ptx/counter.h"
#include "backend/cuda/ptx/registers.h"
#include "backend/cuda/sm90/attention_finders.h"
#include "backend/cuda/sm90/attention_keys.h"
#include "backend/cuda/sm90/attention_products.h"
#include "backend/cuda/sm90/attention_weights.h"
#include "backend/cuda/sm90/attention_work.h"

namespace dsv4::cuda {

// P of a tile as the registers of a warpgroup have it, [term, step][thread], and the sums that it is relative to.
struct TileImage {
  uint4 p[kTerms * kSteps][kGroupThreads];
  PartSum sums[kHeadTile];
};
static_assert(sizeof(TileImage) == kTileImageBytes);
static_assert(TeamBarriers::kImages * kTileImageBytes <= kTiles * 8 * kBlockBytes, "in place of the keys");

// Where the keys of a piece are; of the scales those of the half of the dims that the CTA's columns are in.
struct TeamPlaces {
  const uint8_t* values[kPieceKeys];
  uint32_t scales[kPieceKeys];
};
static_assert(kGroupPieces * sizeof(TeamPlaces) <= kTerms * kBlockBytes, "in place of P");

template <int kDim>
__device__ __forceinline__ TeamPlaces& team_places(SharedMemory<kDim>& shared, int piece) {
  return reinterpret_cast<TeamPlaces*>(shared.p[0])[piece];
}

template <int kDim>
__device__ __forceinline__ uint8_t* image_place(SharedMemory<kDim>& shared, int slot) {
  return shared.keys[0][0] + slot * kTileImageBytes;
}

// Tiles of the team's group.
__device__ __forceinline__ int num_team_tiles(const Work& work) {
  return (work.piece_end - work.piece_begin) * kTiles;
}

// Which team of the launch the CTA is in.
__device__ __forceinline__ int this_team(const Arguments& args) {
  return args.columns.quotient(ptx::cta_here());
}
__device__ __forceinline__ uint8_t* image_of(const Arguments& args, int tile) {
  return args.images + (static_cast<int64_t>(this_team(args)) * args.team_tiles + tile) * kTileImageBytes;
}
__device__ __forceinline__ uint32_t* image_counts(const Arguments& args) {
  return args.image_counts + this_team(args) * kTeamCounters;
}

// Of a cluster, whose counters are nobody else's.
__device__ __forceinline__ void clear_image_counts(const Arguments& args) {
  if (ptx::cluster_rank() == 0 && ptx::thread_here() < kTeamCounters) image_counts(args)[ptx::thread_here()] = 0;
  ptx::cluster_sync();
}

// What is in the rings of V and of P in turns.
template <class S>
struct Rings {
  static constexpr int kStages = TeamBarriers::kValueBlocks / S::kColumnBlocks;  // tiles of V
  static __device__ __forceinline__ int block(int tile, int i) { return tile % kStages * S::kColumnBlocks + i; }
  static __device__ __forceinline__ uint32_t block_phase(int tile) { return tile / kStages % 2; }
  static __device__ __forceinline__ int image(int tile) { return tile % TeamBarriers::kImages; }
  static __device__ __forceinline__ uint32_t image_phase(int tile) { return tile / TeamBarriers::kImages % 2; }
};

template <class S>
__device__ __forceinline__ void init_team_barriers(TeamBarriers& team) {
  ptx::mbarrier_init(&team.places_full, 2 * kFinders);
  ptx::mbarrier_init(&team.q_done, kConsumers);
#pragma unroll
  for (int i = 0; i < TeamBarriers::kValueBlocks; ++i) {
    static_assert(kProducers == kFinders);
    ptx::mbarrier_init(&team.values_full[i], kProducers);  // or the finders
    ptx::mbarrier_init(&team.values_empty[i], kGroupThreads);
  }
#pragma unroll
  for (int i = 0; i < TeamBarriers::kImages; ++i) {
    ptx::mbarrier_init(&team.images_full[i], 1);
    ptx::mbarrier_init(&team.images_empty[i], S::kGroups * kGroupThreads);
  }
}

// Whether the rotated dims are among the CTA's columns.
template <class S>
__device__ __forceinline__ bool has_rotated(const Work& work) {
  return Units<S::kDim>::kRotatedSlot / S::kColumnBlocks == work.column;
}

// Where the keys of all tiles of the team are, for the CTA's columns.
template <class S>
__device__ __forceinline__ void find_team_places(const Arguments& args, SharedMemory<S::kDim>& shared, const Work& work) {
  constexpr int kAtOnce = 2;  // pieces: their loads do not wait for each other
  const int half = work.column * S::kColumnBlocks >= 4 ? 4 : 0;
  const int num_pieces = work.piece_end - work.piece_begin;
#pragma unroll 1
  for (int begin = 0; begin < num_pieces; begin += kAtOnce) {
    int entries[kAtOnce], pages[kAtOnce];
    const int first_key = (work.piece_begin + begin) * kPieceKeys + this_finder();
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) entries[i] = find_entry(args, work, first_key + i * kPieceKeys);
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) pages[i] = find_page(args, work, first_key + i * kPieceKeys, entries[i]);
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (begin + i >= num_pieces) break;
      const EntryPlace place = locate<S::kDim>(args, work, first_key + i * kPieceKeys, entries[i], pages[i]);
      TeamPlaces& places = team_places(shared, begin + i);
      places.values[this_finder()] = place.values;
      ptx::async_load_small<4>(ptx::shared_address(&places.scales[this_finder()]), place.scales + half, place.scales != nullptr);
    }
  }
  ptx::mbarrier_arrive(&shared.team.places_full);
  ptx::async_load_arrive(&shared.team.places_full);
}

// Begins to copy the rotated dims of a tile to their place among the CTA's columns; and, when the copies are there, changes them to f16.
template <class S>
struct RotatedColumns {
  static constexpr int kKeys = kTileKeys * 4 / kFinders;  // of a thread
  static __device__ __forceinline__ int block(const Work& work, int tile) {
    return Rings<S>::block(tile, Units<S::kDim>::kRotatedSlot - work.column * S::kColumnBlocks);
  }
  static __device__ __forceinline__ uint32_t place(SharedMemory<S::kDim>& shared, int block, int i) {
    const int finder = this_finder();
    return ptx::shared_address(shared.q[block]) + swizzled_offset(finder / 4, 2 * (finder % 4)) + i * (kBlockBytes / kKeys);
  }
  static __device__ __forceinline__ void begin(SharedMemory<S::kDim>& shared, const Work& work, int tile) {
    const int ring_block = block(work, tile), finder = this_finder();
    const uint8_t* const* values = team_places(shared, tile / kTiles).values + tile % kTiles * kTileKeys + finder / 4;
    ptx::mbarrier_wait(&shared.team.values_empty[ring_block], Rings<S>::block_phase(tile) ^ 1);
#pragma unroll
    for (int i = 0; i < kKeys; ++i) {
      const uint8_t* value = values[i * (kTileKeys / kKeys)];
      const uint8_t* from = value + Units<S::kDim>::kCoded * kBlockDims + finder % 4 * 32;
      const uint32_t to = place(shared, ring_block, i);
      ptx::async_load_16_of_256(to, from, value != nullptr);
      ptx::async_load_16_of_256(to ^ 16, from + 16, value != nullptr);
    }
  }
  static __device__ __forceinline__ void end(SharedMemory<S::kDim>& shared, const Work& work, int tile) {
    const int ring_block = block(work, tile);
#pragma unroll
    for (int i = 0; i < kKeys; ++i) convert_in_place(place(shared, ring_block, i));
    ptx::mbarrier_arrive(&shared.team.values_full[ring_block]);
  }
};

// Copies the image of a tile to shared memory as soon as it is there; a warp calls it. `ready`: tiles that were seen to be there.
template <class S>
__device__ __forceinline__ void load_image(const Arguments& args, SharedMemory<S::kDim>& shared, int num_tiles, int tile, uint32_t& ready) {
  const int lane = this_finder() % 32;
  while ((ready >> tile & 1) == 0) {
    const uint32_t count = lane < num_tiles ? ptx::load_acquire(image_counts(args) + lane) : 0;
    ready = __ballot_sync(0xffffffffu, count == kGroupThreads / 32);
  }
  if (lane == 0) {
    const int slot = Rings<S>::image(tile);
    ptx::mbarrier_wait(&shared.team.images_empty[slot], Rings<S>::image_phase(tile) ^ 1);
    ptx::fence_async_proxy_of_all();
    ptx::mbarrier_arrive_expect_tx(&shared.team.images_full[slot], kTileImageBytes);
    ptx::bulk_load(image_place(shared, slot), image_of(args, tile), kTileImageBytes, &shared.team.images_full[slot]);
  }
  __syncwarp();
}

// The last CTA of the team that has seen all images leaves zeros.
__device__ __forceinline__ void leave_image_counts(const Arguments& args, int num_tiles) {
  uint32_t* counts = image_counts(args);
  if (ptx::add_release(counts + kTeamCounters - 1, 1) != args.columns.value - 1) return;
  for (int i = 0; i < num_tiles; ++i) counts[i] = 0;
  counts[kTeamCounters - 1] = 0;
}

// The finders of a team's CTA.
template <class S>
__device__ __forceinline__ void find_keys_of_team(const Arguments& args, SharedMemory<S::kDim>& shared) {
  constexpr int kColumns = S::kBlocks / S::kColumnBlocks;
  Work& work = shared.works[0];
  if (this_finder() == 0) {
    const Turn turn = first_turn(args);
    work = find_work(args, turn.unit, turn.rank);
    ptx::mbarrier_arrive(&shared.work_full[0]);
  }
  ptx::mbarrier_wait(&shared.work_full[0], 0);
  const int num_tiles = num_team_tiles(work), num_own = (num_tiles - work.column + kColumns - 1) / kColumns;
  const int num_pieces = (num_own + kTiles - 1) / kTiles;
  const auto find = [&](int piece) {
    if (piece == num_pieces) end_places(shared, piece);
    if (piece >= num_pieces) return;
    const int i = piece * kTiles + this_finder() / kTileKeys;  // of the CTA's tiles
    const int key = (work.piece_begin * kTiles + work.column + i * kColumns) * kTileKeys + this_finder() % kTileKeys;
    find_places(args, shared, work, i < num_own ? key : work.num_keys, min(num_own - piece * kTiles, kTiles), piece);
  };
  find(0);
  if (num_pieces > 0) move_rotated(shared, 0);
  find(1);
  if (this_finder() >= kFinders - 32) {
    find_output(args.params, work, this_finder() % 32, shared.outputs[0]);
    ptx::mbarrier_arrive(&shared.output_full[0]);
  }
  if (num_tiles > 0) find_team_places<S>(args, shared, work);
#pragma unroll 1
  for (int piece = 1; piece < num_pieces; ++piece) {
    find(piece + 1);
    move_rotated(shared, piece);
  }
  if (num_tiles == 0) return;
  ptx::mbarrier_wait(&shared.team.places_full, 0);
  ptx::mbarrier_wait(&shared.team.q_done, 0);
  const bool moves = has_rotated<S>(work), loads = this_finder() >= kFinders - 32;
  uint32_t ready = 0;
#pragma unroll 1
  for (int tile = 0; tile <= num_tiles; ++tile) {
    if (moves && tile < num_tiles) RotatedColumns<S>::begin(shared, work, tile);
    ptx::async_load_commit();
    if (loads && tile < num_tiles) load_image<S>(args, shared, num_tiles, tile, ready);
    if (!moves || tile == 0) continue;
    ptx::async_load_wait<1>();
    RotatedColumns<S>::end(shared, work, tile - 1);
  }
  if (this_finder() == kFinders - 32) leave_image_counts(args, num_tiles);
}

// The producers of a team's CTA, when its own tiles are done: V of its columns, of all tiles, but for the rotated dims.
template <class S>
__device__ __forceinline__ void produce_values(SharedMemory<S::kDim>& shared) {
  using U = Units<S::kDim>;
  constexpr int kAhead = U::kPairsAhead;
  ptx::mbarrier_wait(&shared.work_full[0], 0);
  const Work& work = shared.works[0];
  const int num_tiles = num_team_tiles(work), first_slot = work.column * S::kColumnBlocks;
  const int num_coded = S::kColumnBlocks - (has_rotated<S>(work) ? 1 : 0);  // of the CTA's blocks
  if (num_tiles == 0 || num_coded == 0) return;
  const int producer = threadIdx.x - kConsumers;
  const uint32_t first_chunk = ptx::shared_address(shared.q[0]) + swizzled_offset(first_key(producer), 2 * (producer % 4));
  const uint32_t words = ptx::shared_address(shared.words[producer / 32][0]) + producer % 32 * 16;
  const auto slot_of = [&](int i) { return first_slot + i + (has_rotated<S>(work) && first_slot + i >= U::kRotatedSlot ? 1 : 0); };
  ptx::mbarrier_wait(&shared.team.places_full, 0);
  int next_tile = 0, next_i = 0;  // of the words that are asked for next
  const auto load = [&](uint32_t place) {
    if (next_tile == num_tiles) return ptx::async_load_commit();
    const uint8_t* const* values = team_places(shared, next_tile / kTiles).values + next_tile % kTiles * kTileKeys + first_key(this_producer());
    load_pair(U::block_at(slot_of(next_i)), {values[0], values[8]}, place);
    if (++next_i < num_coded) return;
    next_i = 0;
    ++next_tile;
  };
#pragma unroll
  for (int i = 0; i < kAhead; ++i) load(words + i * kPairBytes);
  ptx::mbarrier_wait(&shared.team.q_done, 0);
  uint32_t place = words;
#pragma unroll 1
  for (int tile = 0; tile < num_tiles; ++tile) {
    const uint32_t* codes = team_places(shared, tile / kTiles).scales + tile % kTiles * kTileKeys + first_key(this_producer());
    const uint32_t scales[2] = {codes[0], codes[8]};
#pragma unroll 1
    for (int i = 0; i < num_coded; ++i) {
      const int slot = slot_of(i), ring_block = Rings<S>::block(tile, slot - first_slot);
      ptx::async_load_wait<kAhead - 1>();
      const uint4 of_keys[2] = {ptx::load_shared(place), ptx::load_shared(place + kPairBytes / 2)};
      ptx::mbarrier_wait(&shared.team.values_empty[ring_block], Rings<S>::block_phase(tile) ^ 1);
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const uint32_t scale = f16_scale_pair(scales[k], U::block_at(slot) % 4);
        store_key(first_chunk, ring_block * kBlockBytes + k * kSwizzleAtomBytes, permuted_f16(of_keys[k], scale));
      }
      ptx::mbarrier_arrive(&shared.team.values_full[ring_block]);
      load(place);
      place = place == words + (kAhead - 1) * kPairBytes ? words : place + kPairBytes;
    }
  }
  ptx::async_load_wait_all();
}

// P of a tile for all CTAs of the team.
__device__ __forceinline__ void store_image(const Arguments& args, int tile, int thread, const TileWeights& weights) {
  uint8_t* image = image_of(args, tile);
  uint4* p = reinterpret_cast<uint4*>(image) + thread % kGroupThreads;
#pragma unroll
  for (int i = 0; i < kTerms * kSteps; ++i) {
    const uint32_t(&words)[4] = weights.p[i / kSteps][i % kSteps];
    __stcg(p + i * kGroupThreads, make_uint4(words[0], words[1], words[2], words[3]));
  }
  if (thread % 4 < 2) {
    const PartSum& sum = thread % 4 == 0 ? weights.sums[0] : weights.sums[1];
    int2* sums = reinterpret_cast<int2*>(image + kTerms * kSteps * kGroupThreads * sizeof(uint4));
    __stcg(sums + first_head(thread) + thread % 4 * 8, make_int2(sum.maximum, __float_as_int(sum.total)));
  }
  ptx::fence_async_proxy_of_all();  // it is read by bulk copies
  __syncwarp();
  if (thread % 32 == 0) ptx::add_release(image_counts(args) + tile, 1);
}

template <class S>
__device__ __forceinline__ void read_image(SharedMemory<S::kDim>& shared, int tile, int thread, TileWeights& weights) {
  const int slot = Rings<S>::image(tile);
  const uint32_t p = ptx::shared_address(image_place(shared, slot)) + thread % kGroupThreads * 16;
  const uint32_t sums = ptx::shared_address(image_place(shared, slot)) + kTerms * kSteps * kGroupThreads * 16 + first_head(thread) * 8;
  ptx::mbarrier_wait(&shared.team.images_full[slot], Rings<S>::image_phase(tile));
#pragma unroll
  for (int i = 0; i < kTerms * kSteps; ++i) {
    const uint4 words = ptx::load_shared(p + i * kGroupThreads * 16);
    uint32_t(&to)[4] = weights.p[i / kSteps][i % kSteps];
    to[0] = words.x;
    to[1] = words.y;
    to[2] = words.z;
    to[3] = words.w;
  }
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    const uint2 sum = ptx::load_shared_pair(sums + row * 64);
    weights.sums[row] = {static_cast<int>(sum.x), __int_as_float(static_cast<int>(sum.y))};
  }
  ptx::mbarrier_arrive(&shared.team.images_empty[slot]);
}

// The consumers of a team's CTA: o and row_sums, empty before, ← those of the group's keys, of the CTA's columns.
template <class S>
__device__ __forceinline__ void consume_of_team(const Arguments& args, SharedMemory<S::kDim>& shared, int group, RowSums& row_sums,
                                                Output<S>& o) {
  constexpr int kColumns = S::kBlocks / S::kColumnBlocks;
  const int num_tiles = num_team_tiles(shared.works[0]), thread = ptx::thread_here();
  int tile = shared.works[0].column + group * kColumns;
  if (tile >= num_tiles) ptx::mbarrier_arrive(&shared.team.q_done);
#pragma unroll 1
  for (uint32_t phase = 0; tile < num_tiles; tile += kTiles * kColumns, phase ^= 1) {
    float s[kTileKeys / 2];
    TileWeights weights;
    const uint2 mask = multiply_keys<S::kDim>(shared, group, phase, s);
    if (tile + kTiles * kColumns >= num_tiles) ptx::mbarrier_arrive(&shared.team.q_done);
#pragma unroll
    for (int i = 0; i < S::kBlocks; ++i) ptx::mbarrier_arrive(&shared.empty[group][i]);
    weigh_keys(thread, mask, args.logit_scale, s, weights);
    store_image(args, tile, thread, weights);
  }
  if (S::kGroups == 1 && group == 1) return;
  const auto add = [&](int tile, TileWeights& weights, const auto& meanwhile) {
    const int first = Rings<S>::block(tile, group * S::kGroupBlocks);
    add_tile<S>(
        uniform_descriptor(shared.q[first]), weights, row_sums, o,
        [&](int i) {
          ptx::mbarrier_wait(&shared.team.values_full[first + i], Rings<S>::block_phase(tile));
          ptx::fence_async_proxy();
        },
        [&](int i) { ptx::mbarrier_arrive(&shared.team.values_empty[first + i]); }, meanwhile);
  };
  TileWeights even, odd;
  if (num_tiles > 0) read_image<S>(shared, 0, thread, even);
#pragma unroll 1
  for (int t = 0; t < num_tiles; t += 2) {
    add(t, even, [&] { read_image<S>(shared, t + 1, thread, odd); });
    add(t + 1, odd, [&] {
      if (t + 2 < num_tiles) read_image<S>(shared, t + 2, thread, even);
    });
  }
}

}  // namespace dsv4::cuda
