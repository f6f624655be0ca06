// The producers of attention: cache entries and Q into shared memory, and the shared memory that all have in common.
#pragma once

#include "backend/cuda/block/attention_output.h"
#include "backend/cuda/block/key_tile.h"
#include "backend/cuda/ptx/copy.h"
#include "backend/cuda/ptx/registers.h"
#include "backend/cuda/sm90/attention_work.h"

namespace dsv4::cuda {

inline constexpr int kTerms = 2;  // of P
inline constexpr int kSteps = kTileKeys / 16;
inline constexpr int kGroupThreads = 128;
inline constexpr int kConsumers = 2 * kGroupThreads;
inline constexpr int kWarps = kConsumers / 32;
inline constexpr int kProducers = kGroupThreads;
inline constexpr int kFinders = kGroupThreads;  // one a key of a piece
inline constexpr int kThreads = kConsumers + kProducers + kFinders;
static_assert(kFinders == kPieceKeys && kProducers / 32 * 16 == kTileKeys);
inline constexpr float kLog2E = 1.44269504088896340736f;

// Shapes that follow from head_dim and the blocks of 64 columns of O that a CTA has: all, or, of a team (attention_team.h), a share.
template <int kHeadDim, int kCtaBlocks>
struct Shape {
  static constexpr int kDim = kHeadDim;
  static constexpr int kBlocks = kDim / kBlockDims, kColumnBlocks = kCtaBlocks;
  static constexpr bool kIsTeam = kColumnBlocks < kBlocks;
  static constexpr int kGroups = kBlocks <= 2 || kColumnBlocks == 1 ? 1 : 2;  // warpgroups that have columns
  static constexpr int kGroupBlocks = kColumnBlocks / kGroups;                // of such a warpgroup
  static constexpr int kVectors = 8 * kGroupBlocks;                           // of four values, of a thread
};

// O of a thread: of rows g and g + 8 of its warp's 16 heads, of blocks of 64 columns.
template <class S>
using Output = float[S::kGroupBlocks][32];

// What the output of a row needs beside its sums.
struct RowOutput {
  float sinks[kHeadTile];  // times log2(e)
  Rotation rotations[kRopeDim / 2];
};

// Where the keys of a piece are.
struct KeyPlaces {
  const uint8_t* values[kPieceKeys];  // nullptr where there is no key
  uint2 scales[kPieceKeys];
};

// What a producer warp, which has 16 keys of each tile of a piece, moves one after the other: of a tile, then of the other, blocks of 64
// coded dims. A lane has 16 bytes of two keys of a block.
//
// Blocks of 64 dims stand in shared memory in the order 0 1 2 3 6 7 4 5: the rotated dims, 7, then are not in the last block that is
// multiplied and freed. They have no copy under way before their block is free.
template <int kDim>
struct Units {
  static constexpr int kBlocks = kDim / kBlockDims;
  static constexpr int kCoded = kBlocks - 1;
  static constexpr int kRotatedSlot = kBlocks == 8 ? 5 : kBlocks - 1;
  // The dims, in blocks, that stand in a slot.
  static constexpr __device__ __forceinline__ int block_at(int slot) { return kBlocks == 8 && slot >= 4 ? slot ^ 2 : slot; }
  // Of the coded dims the i-th.
  static constexpr int coded_slot(int i) { return i < kRotatedSlot ? i : i + 1; }
  static constexpr int kPairs = kTiles * kCoded;                           // of words of a lane
  static constexpr int kPairsAhead = kCoded > 2 ? 3 : kCoded > 0 ? 2 : 1;  // that are read ahead
  // Two blocks are announced at once.
  static constexpr int kFills = kBlocks > 1 ? kBlocks / 2 : 1;
  static constexpr bool ends_fill(int coded_slot) { return coded_slot % 2 == 1 || coded_slot + 1 == kRotatedSlot; }
};

inline constexpr int kPairBytes = 2 * 32 * 16;  // two words of a warp's lanes

template <int kDim>
struct SharedMemory {
  static constexpr int kBlocks = kDim / kBlockDims;
  alignas(kSwizzleAtomBytes) uint8_t q[kBlocks][kBlockBytes];
  alignas(kSwizzleAtomBytes) uint8_t keys[kTiles][kBlocks][kBlockBytes];
  alignas(kSwizzleAtomBytes) uint8_t p[kTerms][kBlockBytes];                         // [64 heads, 64 keys] of one tile, then of the other
  alignas(16) uint8_t words[kProducers / 32][Units<kDim>::kPairsAhead][kPairBytes];  // on their way from the cache, of each warp
  KeyPlaces places[2];                                                               // of pieces, in turns
  Work works[4];                                                                     // on rows, in turns
  RowOutput outputs[2];                                                              // of rows, in turns
  PartSum sums[kTiles][kHeadTile];                                                   // of tiles' keys
  uint2 key_masks[kTiles];                                                           // bit k: there is a key k of the tile
  Part consumer_parts[kWarps];
  int num_tiles[2];  // of pieces, in turns; 0: there is no piece any more
  static constexpr int kFills = Units<kDim>::kFills;
  uint64_t full[kTiles][kFills];
  uint64_t empty[kTiles][kBlocks];
  uint64_t places_full[2];  // but for the scales
  uint64_t scales_full[2];
  uint64_t places_empty[2];
  uint64_t work_full[2];  // the work on a row is known
  uint64_t output_full[2];
  uint64_t q_full;   // of rows but the first, whose Q the consumers load
  uint64_t q_empty;  // the last keys of a row are multiplied
  // Of the consumers. Of a tile and a warp of either warpgroup, which have the same heads: P of the tile is stored.
  uint64_t p_full[kTiles][kWarps / 2];
  uint64_t p_read[2];  // [g]: the other warpgroup than g has read P of tile 1
  uint64_t p_empty;    // warpgroup 1 has stored its output of the row before
};
static_assert(sizeof(SharedMemory<512>) <= 227 * 1024, "the most a CTA may have on Hopper");

// Registers of threads; a team's consumers have fewer sums.
template <bool kIsTeam>
struct Registers {
  static constexpr int kConsumer = kIsTeam ? 200 : 216, kProducer = kIsTeam ? 56 : 40, kFinder = kIsTeam ? 56 : 40;
  static_assert(2 * kConsumer + kProducer + kFinder <= 512);
};

// Of the two keys of a tile whose values a lane moves, those of its quad: where they begin, or nullptr.
struct QuadKeys {
  const uint8_t* values[2];
};

// The producer's number, found out where it is needed.
__device__ __forceinline__ int this_producer() {
  return ptx::thread_here() - kConsumers;
}

// The first of the two keys of a tile that a producer moves; the other is eight further.
__device__ __forceinline__ int first_key(int producer) {
  return producer / 32 * 16 + producer % 32 / 4;
}

__device__ __forceinline__ QuadKeys quad_keys(const KeyPlaces& places, int tile) {
  const uint8_t* const* values = places.values + tile * kTileKeys + first_key(this_producer());
  return {values[0], values[8]};
}

// Begins to read a pair of words of a lane.
__device__ __forceinline__ void load_pair(int block, const QuadKeys& keys, uint32_t place) {
  const unsigned offset = block * kBlockDims + static_cast<unsigned>(ptx::thread_here()) % 4 * 16;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    ptx::async_load_16_of_256(place + i * (kPairBytes / 2), keys.values[i] + offset, keys.values[i] != nullptr);
  }
  ptx::async_load_commit();
}

// A CTA's first unit and the distance to the next, and which of the unit's CTAs it is.
struct Turn {
  int unit, step, rank;
};

__device__ __forceinline__ Turn first_turn(const Arguments& args) {
  const int cta = ptx::cta_here();
  if (args.split == 1) return {cta, ptx::computed_here(static_cast<int>(gridDim.x)), 0};
  const int unit = args.splits.quotient(cta);
  return {unit, args.num_units, cta - unit * args.split};
}

// Which team of the launch the CTA is in, and which of its members it is.
__device__ __forceinline__ int this_team(const Arguments& args) {
  return args.members.quotient(ptx::cta_here());
}
__device__ __forceinline__ int this_member(const Arguments& args) {
  return ptx::cta_here() - this_team(args) * static_cast<int>(args.members.value);
}

// first_turn() of a team's member, which has one unit, if any.
__device__ __forceinline__ Turn first_turn_of_member(const Arguments& args) {
  const int team = this_team(args), tile = args.splits.quotient(team);
  const int member = this_member(args), num_columns = static_cast<int>(args.columns.value);
  return {tile * num_columns + (member < num_columns ? member : 0), args.num_units, team - tile * args.split};
}

template <class S>
__device__ __forceinline__ Turn first_turn_of(const Arguments& args) {
  if constexpr (S::kIsTeam) return first_turn_of_member(args);
  return first_turn(args);
}

// A lane's 16 dims of a key into a block, whose first chunk is at `first` and the other beside it.
__device__ __forceinline__ void store_key(uint32_t first, uint32_t offset, const PermutedDims& dims) {
  ptx::store_shared(first + offset, dims.chunks[0]);
  ptx::store_shared((ptx::computed_here(static_cast<int>(first)) ^ 16) + offset, dims.chunks[1]);
}

// The producers: the coded dims of the CTA's keys into shared memory, piece by piece as the finders say, tile 0, then tile 1, block by
// block.
template <class S>
__device__ __forceinline__ void produce(SharedMemory<S::kDim>& shared) {
  using U = Units<S::kDim>;
  constexpr int kTileBytes = U::kBlocks * kBlockBytes, kAhead = U::kPairsAhead;
  static_assert(U::kCoded > 0 && U::kCoded >= kAhead - 1);
  const int producer = threadIdx.x - kConsumers;
  const uint32_t first_chunk = ptx::shared_address(shared.keys[0][0]) + swizzled_offset(first_key(producer), 2 * (producer % 4));
  uint32_t words_at[kAhead];  // where the pairs of a piece come, in turns
#pragma unroll
  for (int i = 0; i < kAhead; ++i) words_at[i] = ptx::shared_address(shared.words[producer / 32][i]) + producer % 32 * 16;
  ptx::mbarrier_wait(&shared.places_full[0], 0);
  if (shared.num_tiles[0] == 0) return;
  QuadKeys keys = quad_keys(shared.places[0], 0);
#pragma unroll
  for (int pair = 0; pair < kAhead; ++pair) {
    if (pair == U::kCoded) keys = quad_keys(shared.places[0], 1);
    load_pair(U::block_at(U::coded_slot(pair % U::kCoded)), keys, words_at[pair]);
  }
  uint32_t turn = 0;  // pieces so far
#pragma unroll 1
  do {
    const KeyPlaces& places = shared.places[turn % 2];
    uint2 scales[2];  // of the quad's keys of a tile
#pragma unroll
    for (int pair = 0; pair < U::kPairs; ++pair) {
      const int tile = pair / U::kCoded, slot = U::coded_slot(pair % U::kCoded), block = U::block_at(slot), next = pair + kAhead;
      const uint32_t place = words_at[pair % kAhead];
      if (slot == 0) {
        if (S::kIsTeam && tile == 1 && shared.num_tiles[turn % 2] == 1) {  // only a team's last piece
          ptx::async_load_wait_all();
          return;
        }
        if (tile == 0) ptx::mbarrier_wait(&shared.scales_full[turn % 2], turn / 2 % 2);
        const uint2* of_quad = places.scales + tile * kTileKeys + first_key(this_producer());
        scales[0] = of_quad[0];
        scales[1] = of_quad[8];
        if (tile == 1) ptx::mbarrier_arrive(&shared.places_empty[turn % 2]);
      }
      ptx::async_load_wait<kAhead - 1>();
      const uint4 words[2] = {ptx::load_shared(place), ptx::load_shared(place + kPairBytes / 2)};
      ptx::mbarrier_wait(&shared.empty[tile][slot], turn % 2 ^ 1);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint32_t scale = f16_scale_pair(block < 4 ? scales[i].x : scales[i].y, block % 4);
        store_key(first_chunk, tile * kTileBytes + slot * kBlockBytes + i * kSwizzleAtomBytes, permuted_f16(words[i], scale));
      }
      if (U::ends_fill(slot)) ptx::mbarrier_arrive(&shared.full[tile][slot / 2]);
      if (next % U::kPairs == U::kCoded) keys = quad_keys(shared.places[(turn + next / U::kPairs) % 2], 1);
      if (next == U::kPairs) {
        ptx::mbarrier_wait(&shared.places_full[(turn + 1) % 2], (turn + 1) / 2 % 2);
        keys = quad_keys(shared.places[(turn + 1) % 2], 0);
      }
      load_pair(U::block_at(U::coded_slot(next % U::kPairs % U::kCoded)), keys, place);
    }
    if constexpr (U::kPairs % kAhead != 0) {  // the next piece's pairs begin elsewhere
      uint32_t moved[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) moved[i] = words_at[(i + U::kPairs) % kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) words_at[i] = moved[i];
    }
    ++turn;
  } while (shared.num_tiles[turn % 2] > 0);
  ptx::async_load_wait_all();
}

// Bf16 values in a block of shared memory, two chunks of eight at `chunk`, as f16.
__device__ __forceinline__ void convert_in_place(uint32_t chunk) {
  const PermutedDims dims = permuted_f16(ptx::load_shared(chunk), ptx::load_shared(chunk ^ 16));
  ptx::store_shared(chunk, dims.chunks[0]);
  ptx::store_shared(chunk ^ 16, dims.chunks[1]);
}

// Q [64, kDim] of a unit into shared memory by kNumThreads threads; heads beyond the model's are zeros. It is copied as it is and then
// changed to f16 in its place: that takes few registers, and its lines come all at once.
template <int kDim, int kNumThreads>
struct QueryCopy {
  static constexpr int kBlocks = kDim / kBlockDims, kHeads = kHeadTile * 4 / kNumThreads;  // of a thread
  static constexpr uint32_t kStepBytes = kNumThreads / 4 * kSwizzleRowBytes;               // from a thread's head to its next one
  static_assert(kStepBytes % kSwizzleAtomBytes == 0 && kHeadTile * 4 % kNumThreads == 0);
  static __device__ __forceinline__ uint32_t place(const SharedMemory<kDim>& shared, int thread) {
    return ptx::shared_address(shared.q[0]) + swizzled_offset(thread / 4, 2 * (thread % 4));
  }

  static __device__ __forceinline__ void begin(const AttentionParams& params, const OutputHeads& heads, const SharedMemory<kDim>& shared,
                                               int thread) {
    const int first = thread / 4;
    const int64_t head_index = static_cast<int64_t>(heads.row) * params.num_heads + heads.head_begin + first;
#pragma unroll 1
    for (int i = 0; i < kHeads; ++i) {
      const Bf16* q = params.q + (head_index + i * (kNumThreads / 4)) * kDim + thread % 4 * 16;
      const bool is_head = first + i * (kNumThreads / 4) < heads.num_heads;
#pragma unroll
      for (int slot = 0; slot < kBlocks; ++slot) {
        const uint32_t chunk = place(shared, thread) + i * kStepBytes + slot * kBlockBytes;
        const Bf16* values = q + Units<kDim>::block_at(slot) * kBlockDims;
        ptx::async_load_16(chunk, values, is_head);
        ptx::async_load_16(chunk ^ 16, values + 8, is_head);
      }
    }
  }

  // Waits for it; then it can be multiplied.
  static __device__ __forceinline__ void end(const SharedMemory<kDim>& shared, int thread) {
    ptx::async_load_wait_all();
#pragma unroll 1
    for (int i = 0; i < kHeads; ++i) {
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) convert_in_place(place(shared, thread) + i * kStepBytes + block * kBlockBytes);
    }
    ptx::fence_async_proxy();
  }
};

}  // namespace dsv4::cuda
