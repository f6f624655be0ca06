// The producers of attention: cache entries and Q into shared memory, and the shared memory that they and the consumers have in common.
#pragma once

#include "backend/cuda/block/attention_output.h"
#include "backend/cuda/block/key_tile.h"
#include "backend/cuda/ptx/copy.h"
#include "backend/cuda/ptx/registers.h"
#include "backend/cuda/sm90/attention_work.h"

namespace dsv4::cuda {

inline constexpr int kTiles = 2;  // of a piece: one per consumer warpgroup
inline constexpr int kTerms = 2;  // of P
inline constexpr int kSteps = kTileKeys / 16;
inline constexpr int kGroupThreads = 128;
inline constexpr int kConsumers = 2 * kGroupThreads;
inline constexpr int kWarps = kConsumers / 32;
inline constexpr int kProducers = kGroupThreads;
inline constexpr int kThreads = kConsumers + kProducers;
inline constexpr float kLog2E = 1.44269504088896340736f;

// Shapes that follow from head_dim and the blocks of 64 columns that a warpgroup has.
template <int kDim, int kGroupBlocks>
struct Shape {
  static constexpr int kBlocks = kDim / kBlockDims;
  static constexpr int kGroups = kBlocks <= 2 ? 1 : 2;              // warpgroups that have columns of O
  static constexpr int kColumnBlocks = kGroups * kGroupBlocks;      // of a CTA
  static constexpr int kVectors = 8 * kGroupBlocks;                 // of four values, of a thread
  static constexpr bool kTurns = kGroups == 2 && kGroupBlocks > 1;  // the warpgroups multiply in turns
};

// With which parity to wait for a row and for a piece.
struct Parities {
  uint32_t bits = 0;

  __device__ __forceinline__ int row() const { return static_cast<int>(ptx::computed_here(static_cast<int>(bits)) & 1); }
  __device__ __forceinline__ uint32_t piece() const { return bits >> 1 & 1; }
  __device__ __forceinline__ void next_row() { bits ^= 1; }
  __device__ __forceinline__ void next_piece() { bits ^= 2; }
  __device__ __forceinline__ uint32_t idle_row() const { return bits >> 2; }
  __device__ __forceinline__ void next_idle_row() { bits ^= 4; }
};

// The piece that a producer warp is at, and the one after it: of the same row, or, as ~piece, of the next row.
struct ProducerTurn {
  int piece;
  int next;
  Parities parities;
};

// O of a thread: of rows g and g + 8 of its warp's 16 heads, of blocks of 64 columns.
template <int kGroupBlocks>
using Output = float[kGroupBlocks][32];

// Of a row, in turns.
struct RowState {
  Work work;
  float sinks[kHeadTile];  // times log2(e)
  Rotation rotations[kRopeDim / 2];
};

template <int kDim>
struct SharedMemory {
  static constexpr int kBlocks = kDim / kBlockDims;
  alignas(kSwizzleAtomBytes) uint8_t q[kBlocks][kBlockBytes];
  alignas(kSwizzleAtomBytes) uint8_t keys[kTiles][kBlocks][kBlockBytes];
  alignas(kSwizzleAtomBytes) uint8_t p[kTerms][kTiles][kBlockBytes];  // [64 heads, 64 keys]
  RowState rows[2];
  int maxima[kTiles][kHeadTile];
  float totals[kTiles][kHeadTile];
  alignas(16) float bias[kTiles][kTileKeys];                    // 0, or −∞ where there is no key
  Part parts[kWarps];                                           // of a consumer warp, which has no registers for it
  ProducerTurn turns[kProducers / 32];                          // of a producer warp, the same
  static constexpr int kFills = kBlocks > 1 ? kBlocks / 2 : 1;  // of a tile: two blocks at once
  uint64_t full[kTiles][kFills];
  uint64_t empty[kBlocks];  // of both tiles
  uint64_t work_full;       // the work on a row is known
  uint64_t idle_taken;      // the producers have seen a row without pieces
};
static_assert(sizeof(SharedMemory<512>) <= 227 * 1024, "the most a CTA may have on Hopper");

// What a producer warp, which has 32 keys of a tile, moves at once: a block of 64 coded dims of its keys, or the rotated dims of half of
// them. A lane has 16 bytes of four keys, or 32 of two.
template <int kDim>
struct Units {
  static constexpr int kBlocks = kDim / kBlockDims;
  static constexpr int kCoded = kBlocks - 1;
  static constexpr int kUnits = kCoded + 2;
  static constexpr int kWords = 4 * kUnits;  // of a lane

  static constexpr bool is_coded(int unit) { return unit < kCoded; }
  static constexpr int half(int unit) { return unit - kCoded; }  // of the keys, of rotated dims
  // Blocks of the one and of the other warpgroup's columns in turns, as they become free.
  static constexpr int block_at(int i) { return kBlocks == 1 ? 0 : i % 2 * (kBlocks / 2) + i / 2; }
  static constexpr int place(int unit) { return is_coded(unit) ? unit : kBlocks - 1; }  // of the block among all
  static constexpr int block(int unit) { return block_at(place(unit)); }
  static constexpr bool begins_block(int unit) { return unit <= kCoded; }
  // Two blocks are announced at once.
  static constexpr bool ends_fill(int unit) { return is_coded(unit) ? unit % 2 == 1 : half(unit) == 1; }
  static_assert(kBlocks == 1 || block_at(kBlocks - 1) == kBlocks - 1, "the rotated dims come last");
};

// Registers of threads, in all three times 168, and how many words of a lane the producers read ahead.
template <int kGroupBlocks, AttentionOutput kOutput>
struct Registers {
  static constexpr int kConsumer = kGroupBlocks == 4 || kOutput == AttentionOutput::kFp8 ? 208
                                   : kOutput == AttentionOutput::kBf16                   ? 160
                                                                                         : 176;
  static constexpr int kProducer = 3 * 168 - 2 * kConsumer;
};
template <int kDim>
inline constexpr int kWordsAhead = Units<kDim>::kWords / 4;

// Of the four keys whose values a lane moves, those of its quad: where its bytes of them begin.
struct QuadKeys {
  const uint8_t* values[4];
};

__device__ __forceinline__ QuadKeys quad_keys(const uint8_t* values) {
  QuadKeys keys;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    keys.values[i] =
        reinterpret_cast<const uint8_t*>(__shfl_sync(0xffffffffu, reinterpret_cast<uint64_t>(values), i, 4)) + threadIdx.x % 4 * 16;
  }
  return keys;
}

template <int kDim>
__device__ __forceinline__ uint2 read_scales(const EntryPlace& place) {
  constexpr int kScaleBytes = static_cast<int>(KvEntryLayout{kDim}.scale_bytes());
  if constexpr (kScaleBytes == 8) {
    return __ldg(reinterpret_cast<const uint2*>(place.scales));
  } else if constexpr (kScaleBytes == 4) {
    return {__ldg(reinterpret_cast<const uint32_t*>(place.scales)), 0};
  } else {
    return {};
  }
}

// Begins to read word `i` of a unit. Of the rotated dims, whose bytes of a lane are two words, the second is 16 bytes behind the first.
template <int kDim>
__device__ __forceinline__ void load_word(int unit, int i, const QuadKeys& keys, uint4& word) {
  using U = Units<kDim>;
  const uint8_t* values = keys.values[U::is_coded(unit) ? i : 2 * U::half(unit) + i / 2];
  if (!U::is_coded(unit)) values += ptx::computed_here(threadIdx.x) % 4 * 16;
  word = __ldg(reinterpret_cast<const uint4*>(values + (U::is_coded(unit) ? U::block(unit) : U::kBlocks - 1) * kBlockDims +
                                              (U::is_coded(unit) ? 0 : i % 2 * 16)));
}

// The producers' read-ahead of kAhead words.
template <int kDim, int kAhead>
struct Stream {
  static_assert(Units<kDim>::kWords % kAhead == 0);
  uint4 words[kAhead];
  QuadKeys keys;    // of the piece that is being read
  uint2 scales;     // of the lane's key of that piece
  bool is_key;      // whether there is one
  int entry_ahead;  // of the piece after it
  int page_ahead;
};

// The producer's number, found out where it is needed.
__device__ __forceinline__ int this_producer() {
  return ptx::computed_here(threadIdx.x) - kConsumers;
}

// The key of a piece that a producer looks for: those of a quad are eight apart.
__device__ __forceinline__ int key_of_producer(int producer) {
  return producer / 32 * 32 + producer % 4 * 8 + producer % 32 / 4;
}

__device__ __forceinline__ int key_of(int piece, int producer) {
  return piece * kPieceKeys + key_of_producer(producer);
}

__device__ __forceinline__ int entry_of(const Arguments& args, const Work& work, int piece, int producer) {
  return piece < work.piece_end ? find_entry(args, work, key_of(piece, producer)) : -1;
}

template <int kDim>
__device__ __forceinline__ ProducerTurn& turn_of(SharedMemory<kDim>& shared) {
  return shared.turns[this_producer() / 32];
}

// The piece that is read ahead.
struct PieceAhead {
  const Work& work;
  int piece;
};

template <int kDim>
__device__ __forceinline__ PieceAhead piece_ahead(SharedMemory<kDim>& shared) {
  const ProducerTurn& turn = turn_of(shared);
  const int next = turn.next, row = turn.parities.row();
  return {shared.rows[next < 0 ? row ^ 1 : row].work, next < 0 ? ~next : next};
}

// Finds out which piece that is. Behind the last one of a row it is the first one of the next row, unless that has none.
template <int kDim>
__device__ __forceinline__ void find_piece_ahead(SharedMemory<kDim>& shared) {
  ProducerTurn& turn = turn_of(shared);
  const int row = turn.parities.row();
  int next = turn.piece + 1;
  if (next == shared.rows[row].work.piece_end) {
    ptx::mbarrier_wait(&shared.work_full, row ^ 1);
    next = ~shared.rows[row ^ 1].work.piece_begin;
  }
  if (this_producer() % 32 == 0) turn.next = next;
  __syncwarp();
}

// The keys of a tile of the CTA's pieces into shared memory, `phase` after `phase`, from the row that `parities` say to one without pieces.
template <int kDim, int kAhead>
__device__ __forceinline__ void produce_keys(const Arguments& args, SharedMemory<kDim>& shared, Parities& parities,
                                             Stream<kDim, kAhead>& stream) {
  using U = Units<kDim>;
  const int producer = threadIdx.x - kConsumers, row = producer / 32 % 2 * 32 + producer % 32 / 4;
  uint8_t* const keys = shared.keys[0][0];
  constexpr int kTileBytes = U::kBlocks * kBlockBytes, kPageUnit = U::kUnits / 2;
  static_assert((U::kWords - kAhead) / 4 >= kPageUnit, "the page must be known when its entry is read");
  const uint32_t first_chunk = ptx::shared_address(keys) + producer / kTileKeys * kTileBytes + swizzled_offset(row, 2 * (producer % 4));
  ProducerTurn& turn = shared.turns[producer / 32];
  if (producer % 32 == 0) turn = {shared.rows[parities.row()].work.piece_begin, 0, parities};
  __syncwarp();
#pragma unroll 1
  while (turn.piece < shared.rows[turn.parities.row()].work.piece_end) {
    uint2 scales[4];  // of the quad's keys
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      scales[i].x = __shfl_sync(0xffffffffu, stream.scales.x, i, 4);
      scales[i].y = __shfl_sync(0xffffffffu, stream.scales.y, i, 4);
    }
    const bool is_key = stream.is_key;
#pragma unroll
    for (int unit = 0; unit < U::kUnits; ++unit) {
      const int block = U::block(unit), tile = this_producer() / kTileKeys;
      if (U::begins_block(unit)) ptx::mbarrier_wait(&shared.empty[block], turn_of(shared).parities.piece() ^ 1);
      // Behind a block that the warpgroup of the tile has freed: block 0 is freed by the one, the second one by the other.
      if (unit <= 1 && unit == tile) {
        shared.bias[tile][key_of_producer(this_producer()) % kTileKeys] = is_key ? 0.0f : __int_as_float(0xff800000);
      }
      if (unit == 0) {
        find_piece_ahead(shared);
        const PieceAhead ahead = piece_ahead(shared);
        stream.entry_ahead = entry_of(args, ahead.work, ahead.piece, this_producer());
      }
      if (unit == kPageUnit) {
        const PieceAhead ahead = piece_ahead(shared);
        stream.page_ahead = find_page(args, ahead.work, key_of(ahead.piece, this_producer()), stream.entry_ahead);
      }
#pragma unroll
      for (int i = 0; i < 4; i += U::is_coded(unit) ? 1 : 2) {
        const int index = 4 * unit + i;
        uint4& word = stream.words[index % kAhead];
        const uint32_t scale = f16_scale_pair(block < 4 ? scales[i].x : scales[i].y, block % 4);
        const PermutedDims dims = U::is_coded(unit) ? permuted_f16(word, scale) : permuted_f16(word, stream.words[(index + 1) % kAhead]);
        const uint32_t offset = block * kBlockBytes + (U::is_coded(unit) ? i : 2 * U::half(unit) + i / 2) * kSwizzleAtomBytes;
        ptx::store_shared(first_chunk + offset, dims.chunks[0]);
        ptx::store_shared((ptx::computed_here(static_cast<int>(first_chunk)) ^ 16) + offset, dims.chunks[1]);
#pragma unroll
        for (int k = 0; k < (U::is_coded(unit) ? 1 : 2); ++k) {
          const int next = index + k + kAhead;
          if (next == U::kWords) {
            const PieceAhead ahead = piece_ahead(shared);
            const EntryPlace place_ahead =
                locate<kDim>(args, ahead.work, key_of(ahead.piece, this_producer()), stream.entry_ahead, stream.page_ahead);
            stream.keys = quad_keys(place_ahead.values);
            stream.scales = read_scales<kDim>(place_ahead);
            stream.is_key = stream.entry_ahead >= 0;
          }
          load_word<kDim>(next % U::kWords / 4, next % 4, stream.keys, stream.words[next % kAhead]);
        }
      }
      if (U::ends_fill(unit)) ptx::mbarrier_arrive(&shared.full[tile][U::place(unit) / 2]);
    }
    __syncwarp();
    if (producer % 32 == 0) {
      if (turn.next < 0) turn.parities.next_row();
      turn.piece = turn.next < 0 ? ~turn.next : turn.next;
      turn.parities.next_piece();
    }
    __syncwarp();
  }
  parities = turn.parities;
}

// Q [64, kDim] of a unit into shared memory as f16 by kNum = 256 threads, kAtOnce blocks at a time; heads beyond the model's are zeros.
template <int kDim, int kNum, int kAtOnce>
__device__ __forceinline__ void load_queries(const AttentionParams& params, const OutputHeads& heads, uint8_t (*shared_q)[kBlockBytes],
                                             int thread) {
  constexpr int kBlocks = kDim / kBlockDims, kStep = kAtOnce < kBlocks ? kAtOnce : kBlocks;
  const int head = thread / 4, dims = thread % 4;
  const bool is_head = head < heads.num_heads;
  const Bf16* q = params.q + (static_cast<int64_t>(heads.row) * params.num_heads + heads.head_begin + head) * kDim + dims * 16;
#pragma unroll
  for (int begin = 0; begin < kBlocks; begin += kStep) {
    uint4 chunks[kStep][2];
#pragma unroll
    for (int i = 0; i < kStep; ++i) {
      const uint8_t* place = reinterpret_cast<const uint8_t*>(q + (begin + i) * kBlockDims);
      chunks[i][0] = load_or_zero(place, is_head);
      chunks[i][1] = load_or_zero(place + 16, is_head);
    }
#pragma unroll
    for (int i = 0; i < kStep; ++i) store_dims(shared_q[begin + i], head, dims, permuted_f16(chunks[i][0], chunks[i][1]));
  }
}

// The heads of a unit.
__device__ __forceinline__ OutputHeads heads_of(const Arguments& args, int unit) {
  const int tile = args.columns.quotient(unit), row = args.head_tiles.quotient(tile);
  const int begin = (tile - row * static_cast<int>(args.head_tiles.value)) * kHeadTile;
  return {row, begin, min(args.params.num_heads - begin, kHeadTile)};
}

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
  for (int i = thread; i < num_lines; i += kConsumers) ptx::prefetch_l2(reinterpret_cast<const uint8_t*>(q) + i * kLineBytes);
  if (params.selected == nullptr) return;
  const uint8_t* selected = reinterpret_cast<const uint8_t*>(params.selected + static_cast<int64_t>(heads.row) * params.num_selected);
#pragma unroll 1
  for (int i = thread * kLineBytes; i < params.num_selected * 4; i += kConsumers * kLineBytes) ptx::prefetch_l2(selected + i);
}

// A CTA's first unit and the distance to the next, and which of the unit's CTAs it is.
struct Turn {
  int unit, step, rank;
};

__device__ __forceinline__ Turn first_turn(const Arguments& args) {
  const int cta = ptx::computed_here(static_cast<int>(blockIdx.x));
  if (args.split == 1) return {cta, ptx::computed_here(static_cast<int>(gridDim.x)), 0};
  const int unit = args.splits.quotient(cta);
  return {unit, args.num_units, cta - unit * args.split};
}

// Finds the work on a unit and says so, for row `row`. One warp calls it.
template <int kDim>
__device__ __forceinline__ void announce_row(const Arguments& args, SharedMemory<kDim>& shared, int unit, int row) {
  const int lane = ptx::computed_here(threadIdx.x) % 32;
  RowState& state = shared.rows[row];
  Work work{};
  work.unit = unit;
  if (unit < args.num_units) work = find_work(args, unit, first_turn(args).rank);
  if (lane == 0) {
    state.work = work;
    ptx::mbarrier_arrive(&shared.work_full);
  }
  if (unit >= args.num_units) return;
  const AttentionParams& params = args.params;
  static_assert(kRopeDim / 2 == 32 && kHeadTile == 64, "one pair and two heads per lane");
  state.rotations[lane] = rope_rotation(work.position, params.freqs[lane]);
#pragma unroll
  for (int head = lane; head < kHeadTile; head += 32) {
    if (head < work.heads.num_heads) state.sinks[head] = params.sink[work.heads.head_begin + head] * kLog2E;
  }
}

template <int kDim, int kAhead>
__device__ __forceinline__ void produce(const Arguments& args, SharedMemory<kDim>& shared) {
  if (first_turn(args).unit >= args.num_units) return;
  Parities parities;
  ptx::mbarrier_wait(&shared.work_full, 0);
#pragma unroll 1
  while (shared.rows[parities.row()].work.unit < args.num_units) {
    const Work& work = shared.rows[parities.row()].work;
    if (work.has_pieces()) {
      const int producer = this_producer(), key = key_of(work.piece_begin, producer);
      Stream<kDim, kAhead> stream;
      stream.entry_ahead = entry_of(args, work, work.piece_begin, producer);
      stream.page_ahead = find_page(args, work, key, stream.entry_ahead);
      const EntryPlace place = locate<kDim>(args, work, key, stream.entry_ahead, stream.page_ahead);
      prefetch_entry<kDim>(place);
      stream.keys = quad_keys(place.values);
      stream.scales = read_scales<kDim>(place);
      stream.is_key = stream.entry_ahead >= 0;
#pragma unroll
      for (int i = 0; i < kAhead; ++i) load_word<kDim>(i / 4, i % 4, stream.keys, stream.words[i]);
      produce_keys<kDim, kAhead>(args, shared, parities, stream);
    } else {
      ptx::mbarrier_arrive(&shared.idle_taken);
      parities.next_row();
      ptx::mbarrier_wait(&shared.work_full, parities.row());
    }
  }
}

}  // namespace dsv4::cuda
