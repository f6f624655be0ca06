// A team: CTAs that have a group of a row's pieces (up to 1,152 keys) in common. S and the softmax of every tile are one member's work, P
// of the tile is for all of them. The first members have a set of columns of the output each, and multiply P with V of these, tile by tile
// in the order of the row. So nothing but P goes from CTA to CTA, and the sums are those of a CTA that is alone, bit by bit.
//
//   first   S of tiles m, m + M, … of the group by member m of M: keys and Q in shared memory as ever. P and its sums → global memory, as
//           an image of the registers; whoever has stored one counts there.
//   second  Q's place and what follows: blocks of V of the CTA's columns, 64 dims × 64 keys, 12 at a time; behind them images of P, 5 at a
//           time, by bulk copies; P's place: where the keys of all tiles are.
//
// A CTA has one row. All members of a team are resident: a launch of teams has no more CTAs than there are SMs, and the next kernel of the
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
static_assert(kGroupPieces * kTiles < kTeamCounters && kTeamCounters == 32, "a lane a tile");

inline constexpr int kValueBlocks = 12, kImages = 5;  // in shared memory, in place of Q and the keys
inline constexpr int kMoverWarps = kProducers / 32;   // of V
inline constexpr int kValueBytes = kValueBlocks * kBlockBytes;
static_assert(kValueBytes + kImages * kTileImageBytes <= (8 + kTiles * 8) * kBlockBytes);

// Where the keys of a piece are; of the scales those of the half of the dims that the CTA's columns are in.
struct TeamPlaces {
  const uint8_t* values[kPieceKeys];
  uint32_t scales[kPieceKeys];
};

struct TeamBarriers {
  uint64_t places_full;                // of all keys
  uint64_t own_done;                   // S of the CTA's own tiles, by consumers and producers: its shared memory is free for V and P
  uint64_t values_full[kValueBlocks];  // blocks of 64 dims × 64 keys
  uint64_t values_empty[kValueBlocks];
  uint64_t images_full[kImages];
  uint64_t images_empty[kImages];
};

// In place of P.
struct TeamMemory {
  TeamPlaces places[kGroupPieces];
  TeamBarriers barriers;
};
static_assert(sizeof(TeamMemory) <= kTerms * kBlockBytes);

template <int kDim>
__device__ __forceinline__ TeamMemory& team_memory(SharedMemory<kDim>& shared) {
  return *reinterpret_cast<TeamMemory*>(shared.p[0]);
}

// Blocks of V, and images behind them.
template <int kDim>
__device__ __forceinline__ uint8_t* value_place(SharedMemory<kDim>& shared, int block) {
  static_assert(offsetof(SharedMemory<kDim>, q) == 0 && offsetof(SharedMemory<kDim>, keys) == sizeof(shared.q));
  return reinterpret_cast<uint8_t*>(&shared) + block * kBlockBytes;
}
template <int kDim>
__device__ __forceinline__ uint8_t* image_place(SharedMemory<kDim>& shared, int slot) {
  return value_place(shared, kValueBlocks) + slot * kTileImageBytes;
}

// Tiles of the team's group.
__device__ __forceinline__ int num_team_tiles(const Work& work) {
  return (work.piece_end - work.piece_begin) * kTiles;
}

// Of them those of the member.
__device__ __forceinline__ int num_own_tiles(const Arguments& args, const Work& work) {
  const int num_members = static_cast<int>(args.members.value);
  return small_quotient(num_team_tiles(work) - work.member + num_members - 1, num_members);
}

__device__ __forceinline__ bool has_columns(const Arguments& args, const Work& work) {
  return work.member < static_cast<int>(args.columns.value);
}

__device__ __forceinline__ TileImage* image_of(const Arguments& args, int tile) {
  return reinterpret_cast<TileImage*>(args.images) + static_cast<int64_t>(this_team(args)) * args.team_tiles + tile;
}
__device__ __forceinline__ uint32_t* image_counts(const Arguments& args) {
  return args.image_counts + this_team(args) * kTeamCounters;
}

// Of a cluster, whose counters are nobody else's.
__device__ __forceinline__ void clear_image_counts(const Arguments& args) {
  if (ptx::cluster_rank() == 0 && ptx::thread_here() < kTeamCounters) image_counts(args)[ptx::thread_here()] = 0;
  ptx::cluster_sync();
}

template <class S>
__device__ __forceinline__ void init_team_barriers(TeamBarriers& team) {
  ptx::mbarrier_init(&team.places_full, 2 * kGroupThreads);
  ptx::mbarrier_init(&team.own_done, kConsumers + kProducers);
#pragma unroll
  for (int i = 0; i < kValueBlocks; ++i) {
    ptx::mbarrier_init(&team.values_full[i], 32);
    ptx::mbarrier_init(&team.values_empty[i], kGroupThreads);
  }
#pragma unroll
  for (int i = 0; i < kImages; ++i) {
    ptx::mbarrier_init(&team.images_full[i], 1);
    ptx::mbarrier_init(&team.images_empty[i], S::kGroups * kGroupThreads);
  }
}

// Where the keys of all tiles of the team are, for the CTA's columns. Warpgroup 1 of the consumers finds them: it has the CTA's second
// tile, if there is one.
template <class S>
__device__ __forceinline__ void find_team_places(const Arguments& args, SharedMemory<S::kDim>& shared, const Work& work, int thread) {
  constexpr int kMost = kGroupPieces;  // keys of a thread
  static_assert(kGroupThreads == kPieceKeys);
  const int half = work.column * S::kColumnBlocks >= 4 ? 4 : 0;
  const int num_pieces = work.piece_end - work.piece_begin, first_key = work.piece_begin * kPieceKeys + thread;
  int entries[kMost], pages[kMost];
#pragma unroll
  for (int i = 0; i < kMost; ++i) entries[i] = find_entry(args, work, first_key + i * kPieceKeys);
#pragma unroll
  for (int i = 0; i < kMost; ++i) pages[i] = find_page(args, work, first_key + i * kPieceKeys, entries[i]);
#pragma unroll
  for (int i = 0; i < kMost; ++i) {
    if (i >= num_pieces) break;
    const EntryPlace place = locate<S::kDim>(args, work, first_key + i * kPieceKeys, entries[i], pages[i]);
    TeamPlaces& places = team_memory(shared).places[i];
    places.values[thread] = place.values;
    ptx::async_load_small<4>(ptx::shared_address(&places.scales[thread]), place.scales + half, place.scales != nullptr);
  }
  ptx::mbarrier_arrive(&team_memory(shared).barriers.places_full);
  ptx::async_load_arrive(&team_memory(shared).barriers.places_full);
}

// Waits until the image of a tile is there; a warp calls it. `there`: tiles that were seen to be.
__device__ __forceinline__ void wait_for_image(const Arguments& args, int num_tiles, int tile, uint32_t& there) {
  if (there >> tile & 1) return;
  const int lane = this_finder() % 32;
  while ((there >> tile & 1) == 0) {
    const uint32_t count = lane < num_tiles ? ptx::load_acquire(image_counts(args) + lane) : 0;
    there = __ballot_sync(0xffffffffu, count == kGroupThreads / 32);
  }
  ptx::fence_async_proxy_of_global();
}

// Copies the image of a tile, which is there, to shared memory; one thread does.
template <int kDim>
__device__ __forceinline__ void load_image(const Arguments& args, SharedMemory<kDim>& shared, int tile) {
  const int slot = tile % kImages;
  TeamBarriers& barriers = team_memory(shared).barriers;
  ptx::mbarrier_wait(&barriers.images_empty[slot], tile / kImages % 2 ^ 1);
  ptx::mbarrier_arrive_expect_tx(&barriers.images_full[slot], kTileImageBytes);
  ptx::bulk_load(image_place(shared, slot), image_of(args, tile), kTileImageBytes, &barriers.images_full[slot]);
}

// The last CTA of the team that has seen all images leaves zeros.
__device__ __forceinline__ void leave_image_counts(const Arguments& args, int num_tiles) {
  uint32_t* counts = image_counts(args);
  if (ptx::add_release(counts + kTeamCounters - 1, 1) != args.columns.value - 1) return;
  for (int i = 0; i < num_tiles; ++i) counts[i] = 0;
  counts[kTeamCounters - 1] = 0;
}

// What moves V of a team's CTA: a warp a block of 64 dims × 64 keys, of which a lane has 16 dims of every eighth key. Codes are copied to
// where one of the two chunks will be that they become; rotated dims, which are bf16, are changed in their place, too.
template <class S>
struct BlockMover {
  using U = Units<S::kDim>;
  static constexpr int kKeys = kTileKeys / 8;

  uint32_t chunk;  // of the lane's first key, in block 0 of shared memory

  static __device__ __forceinline__ int first_key() { return static_cast<int>(ptx::thread_here()) % 32 / 4; }
  // values, scales: of the keys of a tile.
  __device__ __forceinline__ void load(const uint8_t* const* values, int slot, int to_block) const {
    const int quarter = ptx::thread_here() % 4;
    const bool is_rotated = slot == U::kRotatedSlot;
    const int offset = is_rotated ? U::kCoded * kBlockDims + quarter * 32 : U::block_at(slot) * kBlockDims + quarter * 16;
    const uint32_t to = chunk + to_block * kBlockBytes;
    const uint8_t* of_keys[kKeys];
#pragma unroll
    for (int i = 0; i < kKeys; ++i) of_keys[i] = values[first_key() + i * 8];
#pragma unroll
    for (int i = 0; i < kKeys; ++i) {
      ptx::async_load_16_of_256(to + i * kSwizzleAtomBytes, of_keys[i] + offset, of_keys[i] != nullptr);
      if (is_rotated) ptx::async_load_16_of_256((to ^ 16) + i * kSwizzleAtomBytes, of_keys[i] + offset + 16, of_keys[i] != nullptr);
    }
  }
  __device__ __forceinline__ void convert(const uint32_t* scales, int slot, int in_block) const {
    constexpr int kAtOnce = 4;
    const uint32_t at = chunk + in_block * kBlockBytes;
    if (slot == U::kRotatedSlot) {
#pragma unroll
      for (int begin = 0; begin < kKeys; begin += kAtOnce) {
        uint4 words[kAtOnce][2];
#pragma unroll
        for (int i = 0; i < kAtOnce * 2; ++i) {
          words[i / 2][i % 2] = ptx::load_shared((at ^ i % 2 * 16) + (begin + i / 2) * kSwizzleAtomBytes);
        }
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          const PermutedDims dims = permuted_f16(words[i][0], words[i][1]);
          ptx::store_shared(at + (begin + i) * kSwizzleAtomBytes, dims.chunks[0]);
          ptx::store_shared((at ^ 16) + (begin + i) * kSwizzleAtomBytes, dims.chunks[1]);
        }
      }
      return;
    }
    const int block = U::block_at(slot);
#pragma unroll
    for (int begin = 0; begin < kKeys; begin += kAtOnce) {
      uint4 words[kAtOnce];
      uint32_t of_keys[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        of_keys[i] = scales[first_key() + (begin + i) * 8];
        words[i] = ptx::load_shared(at + (begin + i) * kSwizzleAtomBytes);
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        store_key(at, (begin + i) * kSwizzleAtomBytes, permuted_f16(words[i], f16_scale_pair(of_keys[i], block % 4)));
      }
    }
  }
};

// V of the CTA's columns, of all tiles, by the producers when the CTA's own tiles are done: a warp converts a block while its next one is
// under way.
template <class S>
__device__ __forceinline__ void move_values(const Arguments& args, SharedMemory<S::kDim>& shared) {
  constexpr int kAhead = kValueBlocks / kMoverWarps - 1;
  TeamBarriers& barriers = team_memory(shared).barriers;
  ptx::mbarrier_wait(&shared.work_full[0], 0);
  const Work& work = shared.works[0];
  const int num_units = num_team_tiles(work) * S::kColumnBlocks, first_slot = work.column * S::kColumnBlocks;  // units: blocks of tiles
  if (num_units == 0 || !has_columns(args, work)) return;
  ptx::mbarrier_arrive(&barriers.own_done);
  ptx::mbarrier_wait(&barriers.places_full, 0);
  ptx::mbarrier_wait(&barriers.own_done, 0);
  const int lane = ptx::thread_here() % 32, warp = static_cast<int>(ptx::uniform_word(this_producer() / 32));
  const BlockMover<S> mover{ptx::shared_address(shared.q[0]) + swizzled_offset(lane / 4, 2 * (lane % 4))};
  const auto places_of = [&](int tile) -> const TeamPlaces& { return team_memory(shared).places[tile / kTiles]; };
  const auto load = [&](int unit) {
    if (unit < num_units) {
      const int tile = unit / S::kColumnBlocks, block = unit % kValueBlocks;
      ptx::mbarrier_wait(&barriers.values_empty[block], unit / kValueBlocks % 2 ^ 1);
      mover.load(places_of(tile).values + tile % kTiles * kTileKeys, first_slot + unit % S::kColumnBlocks, block);
    }
    ptx::async_load_commit();
  };
#pragma unroll 1
  for (int i = 0; i < kAhead; ++i) load(warp + i * kMoverWarps);
#pragma unroll 1
  for (int unit = warp; unit < num_units; unit += kMoverWarps) {
    const int tile = unit / S::kColumnBlocks, block = unit % kValueBlocks;
    ptx::async_load_wait<kAhead - 1>();
    mover.convert(places_of(tile).scales + tile % kTiles * kTileKeys, first_slot + unit % S::kColumnBlocks, block);
    ptx::mbarrier_arrive(&barriers.values_full[block]);
    load(unit + kAhead * kMoverWarps);
  }
  ptx::async_load_wait_all();
}

// The finders of a team's CTA: as ever for its own tiles; then a warp of them brings the images.
template <class S>
__device__ __forceinline__ void find_keys_of_team(const Arguments& args, SharedMemory<S::kDim>& shared) {
  Work& work = shared.works[0];
  if (this_finder() == 0) {
    const Turn turn = first_turn_of_member(args);
    work = find_work(args, turn.unit, turn.rank);
    work.member = this_member(args);
    ptx::mbarrier_arrive(&shared.work_full[0]);
  }
  ptx::mbarrier_wait(&shared.work_full[0], 0);
  const int num_own = num_own_tiles(args, work), num_pieces = (num_own + kTiles - 1) / kTiles;
  const auto find = [&](int piece) {
    if (piece == num_pieces && num_own % kTiles == 0) end_places(shared, piece);  // a single tile is known to be the last
    if (piece >= num_pieces) return;
    const int i = piece * kTiles + this_finder() / kTileKeys;  // of the CTA's tiles
    const int tile = work.piece_begin * kTiles + work.member + i * static_cast<int>(args.members.value);
    find_places<S::kDim, false>(args, shared, work, i < num_own ? tile * kTileKeys + this_finder() % kTileKeys : work.num_keys,
                                min(num_own - piece * kTiles, kTiles), piece);
  };
  find(0);
  if (num_pieces > 0) move_rotated(shared, 0);
  find(1);
  if (this_finder() >= kFinders - 32) {
    find_output(args.params, work, this_finder() % 32, shared.outputs[0]);
    ptx::mbarrier_arrive(&shared.output_full[0]);
  }
#pragma unroll 1
  for (int piece = 1; piece < num_pieces; ++piece) {
    find(piece + 1);
    move_rotated(shared, piece);
  }
  const int num_tiles = num_team_tiles(work);
  if (num_tiles == 0 || !has_columns(args, work) || this_finder() < kFinders - 32) return;
  uint32_t there = 0;
  ptx::mbarrier_wait(&team_memory(shared).barriers.own_done, 0);
  ptx::fence_async_proxy();  // bulk copies come where the keys of the producers were
#pragma unroll 1
  for (int tile = 0; tile < num_tiles; ++tile) {
    wait_for_image(args, num_tiles, tile, there);
    if (this_finder() % 32 == 0) load_image(args, shared, tile);
    __syncwarp();
  }
  if (this_finder() % 32 == 0) leave_image_counts(args, num_tiles);
}

// P of a tile for all CTAs of the team.
__device__ __forceinline__ void store_image(const Arguments& args, int tile, int thread, const TileWeights& weights) {
  TileImage& image = *image_of(args, tile);
#pragma unroll
  for (int i = 0; i < kTerms * kSteps; ++i) {
    const uint32_t(&words)[4] = weights.p[i / kSteps][i % kSteps];
    __stcg(&image.p[i][thread % kGroupThreads], make_uint4(words[0], words[1], words[2], words[3]));
  }
  store_sums(thread, weights, [&](int head, const PartSum& sum) {
    __stcg(reinterpret_cast<int2*>(image.sums) + head, make_int2(sum.maximum, __float_as_int(sum.total)));
  });
  __syncwarp();
  if (thread % 32 == 0) ptx::count_release(image_counts(args) + tile, 1);
}

// P of a tile from its image, when it has come.
template <int kDim>
__device__ __forceinline__ void read_image(SharedMemory<kDim>& shared, int tile, int thread, TileWeights& weights) {
  const int slot = tile % kImages;
  const TileImage* image = reinterpret_cast<const TileImage*>(image_place(shared, slot));
  const uint32_t p = ptx::shared_address(&image->p[0][thread % kGroupThreads]),
                 sums = ptx::shared_address(&image->sums[first_head(thread)]);
  ptx::mbarrier_wait(&team_memory(shared).barriers.images_full[slot], tile / kImages % 2);
#pragma unroll
  for (int i = 0; i < kTerms * kSteps; ++i) {
    const uint4 words = ptx::load_shared(p + i * sizeof(image->p[0]));
    uint32_t(&to)[4] = weights.p[i / kSteps][i % kSteps];
    to[0] = words.x;
    to[1] = words.y;
    to[2] = words.z;
    to[3] = words.w;
  }
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    const uint2 sum = ptx::load_shared_pair(sums + row * 8 * sizeof(PartSum));
    weights.sums[row] = {static_cast<int>(sum.x), __int_as_float(static_cast<int>(sum.y))};
  }
  ptx::fence_async_proxy();  // what was read is overwritten by bulk copies
  ptx::mbarrier_arrive(&team_memory(shared).barriers.images_empty[slot]);
}

// The consumers' products of a team's CTA with V of its columns, in the order of tiles. A warpgroup with one block has two tiles' products
// under way, for P of the second one and the sums of the first to be read beside them.
template <class S>
__device__ __forceinline__ void multiply_images(SharedMemory<S::kDim>& shared, int group, int num_tiles, RowSums& row_sums, Output<S>& o) {
  const int thread = ptx::thread_here();
  int first = group * S::kGroupBlocks;  // of the ring's blocks
  uint32_t phase = 0;
  const auto next = [&] {
    first += S::kColumnBlocks;
    if (first < kValueBlocks) return;
    first -= kValueBlocks;
    phase ^= 1;
  };
  const auto wait = [&](int block, uint32_t block_phase) {
    ptx::mbarrier_wait(&team_memory(shared).barriers.values_full[block], block_phase);
    ptx::fence_async_proxy();
  };
  const auto free = [&](int block) { ptx::mbarrier_arrive(&team_memory(shared).barriers.values_empty[block]); };
  ptx::mbarrier_wait(&team_memory(shared).barriers.own_done, 0);  // the output is staged where the producers' words were
  TileWeights even, odd;
  read_image(shared, 0, thread, even);
  if constexpr (S::kGroupBlocks == 1) {
    float even_sum[32], odd_sum[32];
    const auto begin = [&](TileWeights& weights, float(&sum)[32], int block, uint32_t block_phase) {
      fence_operands(weights);
      wait(block, block_phase);
      multiply_values(weights, uniform_descriptor(value_place(shared, block)), sum);
    };
    // `meanwhile` may overwrite the weights.
    const auto end = [&](TileWeights& weights, float(&sum)[32], const auto& meanwhile) {
      fence_operands(sum);
      fence_operands(weights);
      free(first);
      next();
      FoldFactors factors[2];
#pragma unroll
      for (int row = 0; row < 2; ++row) factors[row] = fold(row_sums[row], weights.sums[row]);
      meanwhile();
      scale_output<S>(factors, o);
#pragma unroll
      for (int k = 0; k < 32; ++k) o[0][k] = __fmaf_rn(sum[k], factors[k / 2 % 2].gain, o[0][k]);
    };
#pragma unroll 1
    for (int tile = 2; tile <= num_tiles; tile += 2) {
      begin(even, even_sum, first, phase);
      read_image(shared, tile - 1, thread, odd);
      const bool turns = first + S::kColumnBlocks >= kValueBlocks;
      begin(odd, odd_sum, turns ? first + S::kColumnBlocks - kValueBlocks : first + S::kColumnBlocks, phase ^ (turns ? 1 : 0));
      ptx::wgmma_wait_group<1>();
      end(even, even_sum, [&] {
        if (tile < num_tiles) read_image(shared, tile, thread, even);
      });
      ptx::wgmma_wait_group<0>();
      end(odd, odd_sum, [] {});
    }
  } else {
    const auto add = [&](TileWeights& weights, const auto& meanwhile) {
      add_tile<S>(
          uniform_descriptor(value_place(shared, first)), weights, row_sums, o, [&](int i) { wait(first + i, phase); },
          [&](int i) { free(first + i); }, meanwhile);
      next();
    };
#pragma unroll 1
    for (int tile = 0; tile < num_tiles; tile += 2) {
      add(even, [&] { read_image(shared, tile + 1, thread, odd); });
      add(odd, [&] {
        if (tile + 2 < num_tiles) read_image(shared, tile + 2, thread, even);
      });
    }
  }
}

// The consumers of a team's CTA: o and row_sums, empty before, ← those of the group's keys, of the CTA's columns.
template <class S>
__device__ __forceinline__ void consume_of_team(const Arguments& args, SharedMemory<S::kDim>& shared, int group, RowSums& row_sums,
                                                Output<S>& o) {
  const Work& work = shared.works[0];
  TeamBarriers& barriers = team_memory(shared).barriers;
  const int num_tiles = ptx::uniform(num_team_tiles(work)), step = kTiles * static_cast<int>(args.members.value);
  const int thread = ptx::thread_here();
  if (has_columns(args, work) && group == 1) find_team_places<S>(args, shared, work, thread - kGroupThreads);
  int tile = work.member + group * (step / kTiles);
  if (tile >= num_tiles) ptx::mbarrier_arrive(&barriers.own_done);
#pragma unroll 1
  for (uint32_t phase = 0; tile < num_tiles; tile += step, phase ^= 1) {
    float s[kTileKeys / 2];
    TileWeights weights;
    const uint2 mask = multiply_keys<S::kDim>(shared, group, phase, s);
    if (tile + step >= num_tiles) ptx::mbarrier_arrive(&barriers.own_done);
#pragma unroll
    for (int block = 0; block < S::kBlocks; ++block) ptx::mbarrier_arrive(&shared.empty[group][block]);
    weigh_keys(thread, mask, args.logit_scale, s, weights);
    store_image(args, tile, thread, weights);
  }
  if (num_tiles == 0 || !has_columns(args, work) || (S::kGroups == 1 && group == 1)) return;
  multiply_images<S>(shared, group, num_tiles, row_sums, o);
}

}  // namespace dsv4::cuda
