// The producers of attention: cache entries and Q into shared memory, and the shared memory that they and the consumers have in common.
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
inline constexpr int kThreads = kConsumers + kProducers;
inline constexpr float kLog2E = 1.44269504088896340736f;

// Shapes that follow from head_dim and the blocks of 64 columns that a warpgroup has.
template <int kDim, int kGroupBlocks>
struct Shape {
  static constexpr int kBlocks = kDim / kBlockDims;
  static constexpr int kGroups = kBlocks <= 2 ? 1 : 2;          // warpgroups that have columns of O
  static constexpr int kColumnBlocks = kGroups * kGroupBlocks;  // of a CTA
  static constexpr int kVectors = 8 * kGroupBlocks;             // of four values, of a thread
};

// With which parity to wait for a row and for a piece.
struct Parities {
  uint16_t bits = 0;

  __device__ __forceinline__ int row() const { return static_cast<int>(ptx::computed_here(static_cast<int>(bits)) & 1); }
  __device__ __forceinline__ uint32_t piece() const { return bits >> 1 & 1; }
  __device__ __forceinline__ void next_row() { bits ^= 1; }
  __device__ __forceinline__ void next_piece() { bits ^= 2; }
};

// The piece that a producer warp is at, and the one after it: of the same row, or, as ~piece, of the next row.
struct ProducerTurn {
  int16_t piece;
  int16_t next;
  Parities parities;
};

// The piece that a consumer warp is at, and the part that it is summing up; in shared memory, as it has no registers to spare.
struct ConsumerTurn {
  Part part;
  int16_t piece;
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
  PartSum sums[kTiles][kHeadTile];            // of a tile's keys
  alignas(16) float bias[kTiles][kTileKeys];  // 0, or −∞ where there is no key
  ConsumerTurn consumer_turns[kWarps];
  ProducerTurn turns[kProducers / 32];
  static constexpr int kFills = kBlocks > 1 ? kBlocks / 2 : 1;  // of a tile: two blocks at once
  uint64_t full[kTiles][kFills];
  uint64_t empty[kTiles][kBlocks];
  uint64_t work_full;  // the work on a row is known
  uint64_t row_begun;  // by all, who are done with the row before
};
static_assert(sizeof(SharedMemory<512>) <= 227 * 1024, "the most a CTA may have on Hopper");

// What a producer warp, which has 16 keys of each tile of a piece, moves one after the other: of a tile, then of the other, blocks of 64
// coded dims and the rotated dims. A lane has 16 bytes of two keys of a block of codes, and 32 bytes of both of rotated dims.
template <int kDim>
struct Units {
  static constexpr int kBlocks = kDim / kBlockDims;
  static constexpr int kCoded = kBlocks - 1;
  static constexpr int kTileWords = 2 * kCoded + 4;  // of a lane
  static constexpr int kWords = kTiles * kTileWords;

  static constexpr bool is_coded(int word) { return word % kTileWords < 2 * kCoded; }
  static constexpr int block(int word) { return is_coded(word) ? word % kTileWords / 2 : kBlocks - 1; }
  // Of the quad's four.
  static constexpr int key(int word) {
    return word / kTileWords * 2 + (is_coded(word) ? word % kTileWords % 2 : (word % kTileWords - 2 * kCoded) / 2);
  }
  // Two blocks are announced at once.
  static constexpr bool ends_fill(int block) { return block % 2 == 1 || block == kBlocks - 1; }
};

// Registers of threads, in all three times 168, and how many words of a lane the producers read ahead.
template <int kGroupBlocks, AttentionOutput kOutput>
struct Registers {
  static constexpr int kConsumer = kGroupBlocks == 4                   ? 200
                                   : kOutput == AttentionOutput::kFp8  ? 208
                                   : kOutput == AttentionOutput::kBf16 ? 160
                                                                       : 176;
  static constexpr int kProducer = 3 * 168 - 2 * kConsumer;
};
template <int kDim>
inline constexpr int kWordsAhead = Units<kDim>::kWords / 4;

// Of the two keys of a tile whose values a lane moves, those of its quad: where its bytes of them begin.
struct QuadKeys {
  const uint8_t* values[2];
};

__device__ __forceinline__ QuadKeys quad_keys(const uint8_t* values, int tile) {
  QuadKeys keys;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    keys.values[i] = reinterpret_cast<const uint8_t*>(__shfl_sync(0xffffffffu, reinterpret_cast<uint64_t>(values), tile * 2 + i, 4)) +
                     static_cast<unsigned>(ptx::thread_here()) % 4 * 16;
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

// Begins to read a word. Of the rotated dims, whose bytes of a lane are two words, the second is 16 bytes behind the first.
template <int kDim>
__device__ __forceinline__ void load_word(int index, const QuadKeys& keys, uint4& word) {
  using U = Units<kDim>;
  const uint8_t* values = keys.values[U::key(index) % 2] + U::block(index) * kBlockDims;
  if (!U::is_coded(index)) values += static_cast<unsigned>(ptx::thread_here()) % 4 * 16 + index % 2 * 16;
  word = __ldg(reinterpret_cast<const uint4*>(values));
}

// The producers' read-ahead of kAhead words.
template <int kDim, int kAhead>
struct Stream {
  static_assert(Units<kDim>::kWords % kAhead == 0);
  uint4 words[kAhead];
  const uint8_t* values;  // of the lane's key of the piece that is being read
  QuadKeys keys;          // of the tile
  uint2 scales;           // of the lane's key of that piece
  bool is_key;            // whether there is one
  int entry_ahead;        // of the piece after it
  int page_ahead;
};

// The producer's number, found out where it is needed.
__device__ __forceinline__ int this_producer() {
  return ptx::thread_here() - kConsumers;
}

// The key of a piece that a producer looks for: a quad has two of either tile, eight apart.
__device__ __forceinline__ int key_of_producer(int producer) {
  return producer % 4 / 2 * kTileKeys + producer / 32 * 16 + producer % 2 * 8 + producer % 32 / 4;
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

// Finds the work on a unit and says so, for row `row`. The first producer warp calls it. The rest of the row's state the consumers see
// behind the row's last blocks, or, where it has none, behind row_begun.
template <int kDim>
__device__ __forceinline__ void announce_row(const Arguments& args, SharedMemory<kDim>& shared, int unit, int row) {
  const int lane = ptx::thread_here() % 32;
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
#pragma unroll
  for (int i = 0; i < kHeadTile / 32; ++i) {
    const int head = lane + 32 * i;
    if (head < work.heads.num_heads) state.sinks[head] = params.sink[work.heads.head_begin + head] * kLog2E;
  }
  state.rotations[lane] = rope_rotation(work.position, params.freqs[lane]);
}

// The row after the one that the producers are at, when all have begun that one.
template <int kDim>
__device__ __forceinline__ void announce_next_row(const Arguments& args, SharedMemory<kDim>& shared, int row) {
  ptx::mbarrier_wait(&shared.row_begun, row);
  announce_row<kDim>(args, shared, shared.rows[row].work.unit + first_turn(args).step, row ^ 1);
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
  if (this_producer() % 32 == 0) turn.next = static_cast<int16_t>(next);
  __syncwarp();
}

// The next row at a row's second piece, or its only one.
template <int kDim>
__device__ __forceinline__ void announce_in_time(const Arguments& args, SharedMemory<kDim>& shared) {
  if (this_producer() >= 32) return;
  const ProducerTurn& turn = turn_of(shared);
  const int row = turn.parities.row();
  const Work& work = shared.rows[row].work;
  if (turn.piece == min(work.piece_begin + 1, work.piece_end - 1)) announce_next_row<kDim>(args, shared, row);
}

// The keys of the CTA's pieces into shared memory, from the row that `parities` say to one without pieces: tile 0, then tile 1, block by
// block.
template <int kDim, int kAhead>
__device__ __forceinline__ void produce_keys(const Arguments& args, SharedMemory<kDim>& shared, Parities& parities,
                                             Stream<kDim, kAhead>& stream) {
  using U = Units<kDim>;
  const int producer = threadIdx.x - kConsumers, row = producer / 32 * 16 + producer % 32 / 4;
  constexpr int kTileBytes = U::kBlocks * kBlockBytes, kPageWord = U::kTileWords;
  static_assert(U::kWords - kAhead >= kPageWord, "the page must be known when its entry is read");
  const uint32_t first_chunk = ptx::shared_address(shared.keys[0][0]) + swizzled_offset(row, 2 * (producer % 4));
  if (producer % 32 == 0) turn_of(shared) = {static_cast<int16_t>(shared.rows[parities.row()].work.piece_begin), 0, parities};
  __syncwarp();
#pragma unroll 1
  while (turn_of(shared).piece < shared.rows[turn_of(shared).parities.row()].work.piece_end) {
    uint2 scales[2];  // of the quad's keys of a tile
#pragma unroll
    for (int index = 0; index < U::kWords; index += U::is_coded(index) ? 1 : 2) {
      const int tile = index / U::kTileWords, block = U::block(index), key = U::key(index);
      const bool begins_block = key % 2 == 0;
      if (index % U::kTileWords == 0) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          scales[i].x = __shfl_sync(0xffffffffu, stream.scales.x, tile * 2 + i, 4);
          scales[i].y = __shfl_sync(0xffffffffu, stream.scales.y, tile * 2 + i, 4);
        }
      }
      if (begins_block) ptx::mbarrier_wait(&shared.empty[tile][block], turn_of(shared).parities.piece() ^ 1);
      if (index % U::kTileWords == 0) {  // a block is freed when the bias of its tile has been read
        const int looked_for = key_of_producer(this_producer());
        if (looked_for / kTileKeys == tile) shared.bias[tile][looked_for % kTileKeys] = stream.is_key ? 0.0f : __int_as_float(0xff800000);
      }
      if (index == 0) {
        announce_in_time<kDim>(args, shared);
        find_piece_ahead(shared);
        const PieceAhead ahead = piece_ahead(shared);
        stream.entry_ahead = entry_of(args, ahead.work, ahead.piece, this_producer());
      }
      if (index == kPageWord) {
        const PieceAhead ahead = piece_ahead(shared);
        stream.page_ahead = find_page(args, ahead.work, key_of(ahead.piece, this_producer()), stream.entry_ahead);
      }
      uint4& word = stream.words[index % kAhead];
      const uint32_t scale = f16_scale_pair(block < 4 ? scales[key % 2].x : scales[key % 2].y, block % 4);
      const PermutedDims dims = U::is_coded(index) ? permuted_f16(word, scale) : permuted_f16(word, stream.words[(index + 1) % kAhead]);
      const uint32_t offset = tile * kTileBytes + block * kBlockBytes + key % 2 * kSwizzleAtomBytes;
      ptx::store_shared(first_chunk + offset, dims.chunks[0]);
      ptx::store_shared((ptx::computed_here(static_cast<int>(first_chunk)) ^ 16) + offset, dims.chunks[1]);
#pragma unroll
      for (int next = index + kAhead; next < index + kAhead + (U::is_coded(index) ? 1 : 2); ++next) {
        if (next == U::kWords) {
          const PieceAhead ahead = piece_ahead(shared);
          const EntryPlace place_ahead =
              locate<kDim>(args, ahead.work, key_of(ahead.piece, this_producer()), stream.entry_ahead, stream.page_ahead);
          stream.values = place_ahead.values;
          stream.scales = read_scales<kDim>(place_ahead);
          stream.is_key = stream.entry_ahead >= 0;
        }
        if (next % U::kTileWords == 0) stream.keys = quad_keys(stream.values, next / U::kTileWords % kTiles);
        load_word<kDim>(next % U::kWords, stream.keys, stream.words[next % kAhead]);
      }
      if (key % 2 == 1 && U::ends_fill(block)) ptx::mbarrier_arrive(&shared.full[tile][block / 2]);
    }
    __syncwarp();
    if (this_producer() % 32 == 0) {
      ProducerTurn& turn = turn_of(shared);
      if (turn.next < 0) turn.parities.next_row();
      turn.piece = static_cast<int16_t>(turn.next < 0 ? ~turn.next : turn.next);
      turn.parities.next_piece();
    }
    __syncwarp();
    const ProducerTurn& turn = turn_of(shared);
    if (turn.next < 0 && turn.piece < shared.rows[turn.parities.row()].work.piece_end) ptx::mbarrier_arrive(&shared.row_begun);
  }
  parities = turn_of(shared).parities;
}

// Q [64, kDim] of a unit into shared memory as f16 by the consumers, kAtOnce blocks at a time; heads beyond the model's are zeros.
template <int kDim, int kAtOnce>
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

template <int kDim, int kAhead>
__device__ __forceinline__ void produce(const Arguments& args, SharedMemory<kDim>& shared) {
  if (first_turn(args).unit >= args.num_units) return;
  Parities parities;
  if (this_producer() < 32) announce_row<kDim>(args, shared, first_turn(args).unit, 0);
  ptx::mbarrier_wait(&shared.work_full, 0);
#pragma unroll 1
  while (shared.rows[parities.row()].work.unit < args.num_units) {
    const Work& work = shared.rows[parities.row()].work;
    ptx::mbarrier_arrive(&shared.row_begun);
    if (work.has_pieces()) {
      const int producer = this_producer(), key = key_of(work.piece_begin, producer);
      Stream<kDim, kAhead> stream;
      stream.entry_ahead = entry_of(args, work, work.piece_begin, producer);
      stream.page_ahead = find_page(args, work, key, stream.entry_ahead);
      const EntryPlace place = locate<kDim>(args, work, key, stream.entry_ahead, stream.page_ahead);
      prefetch_entry<kDim>(place);
      stream.values = place.values;
      stream.keys = quad_keys(place.values, 0);
      stream.scales = read_scales<kDim>(place);
      stream.is_key = stream.entry_ahead >= 0;
#pragma unroll
      for (int i = 0; i < kAhead; ++i) load_word<kDim>(i, stream.keys, stream.words[i]);
      produce_keys<kDim, kAhead>(args, shared, parities, stream);
    } else {
      if (this_producer() < 32) announce_next_row<kDim>(args, shared, parities.row());
      parities.next_row();
      ptx::mbarrier_wait(&shared.work_full, parities.row());
    }
  }
}

}  // namespace dsv4::cuda
