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
  static constexpr int kGroups = kBlocks <= 2 ? 1 : 2;              // warpgroups that have columns of O
  static constexpr int kColumnBlocks = kGroups * kGroupBlocks;      // of a CTA
  static constexpr int kVectors = 8 * kGroupBlocks;                 // of four values, of a thread
};

// With which parity to wait for a row and for a piece.
struct Parities {
  uint16_t bits = 0;

  __device__ __forceinline__ int row() const { return static_cast<int>(ptx::computed_here(static_cast<int>(bits)) & 1); }
  __device__ __forceinline__ uint32_t piece() const { return bits >> 1 & 1; }
  __device__ __forceinline__ void next_row() { bits ^= 1; }
  __device__ __forceinline__ void next_piece() { bits ^= 2; }
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
  PartSum sums[kTiles][kHeadTile];                              // of a tile's keys
  alignas(16) float bias[kTiles][kTileKeys];                    // 0, or −∞ where there is no key
  ConsumerTurn consumer_turns[kWarps];
  static constexpr int kFills = kBlocks > 1 ? kBlocks / 2 : 1;  // of a tile: two blocks at once
  uint64_t full[kTiles][kFills];
  uint64_t empty[kTiles][kBlocks];
  uint64_t work_full;  // the work on a row is known
  uint64_t row_begun;  // by all, who are done with the row before
};
static_assert(sizeof(SharedMemory<512>) <= 227 * 1024, "the most a CTA may have on Hopper");

// Registers of threads, in all three times 168.
inline constexpr int kConsumerRegisters = 216;
inline constexpr int kProducerRegisters = 3 * 168 - 2 * kConsumerRegisters;

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

// The producer's number, found out where it is needed.
__device__ __forceinline__ int this_producer() {
  return ptx::thread_here() - kConsumers;
}

// The key of a piece that a producer looks for: a quad has two of either tile, eight apart.
__device__ __forceinline__ int key_of_producer(unsigned producer) {
  return static_cast<int>(producer % 4 / 2 * kTileKeys + producer / 32 * 16 + producer % 2 * 8 + producer % 32 / 4);
}

__device__ __forceinline__ int key_of(int piece, int producer) {
  return piece * kPieceKeys + key_of_producer(producer);
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

// The first producer warp finds out about the row that is announced next, all being done with what it overwrites: first the work on a
// unit, which the others wait for; then the rest, which the consumers see behind the row's last blocks, or, where it has none, behind
// row_begun.
template <int kDim>
__device__ __forceinline__ void announce_work(const Arguments& args, SharedMemory<kDim>& shared, int unit, int row) {
  Work work{};
  work.unit = unit;
  if (unit < args.num_units) work = find_work(args, unit, first_turn(args).rank);
  if (this_producer() != 0) return;
  shared.rows[row].work = work;
  ptx::mbarrier_arrive(&shared.work_full);
}

template <int kDim>
__device__ __forceinline__ void announce_rest(const Arguments& args, SharedMemory<kDim>& shared, int row) {
  static_assert(kRopeDim / 2 == 32 && kHeadTile == 64, "one pair and two heads per lane");
  __syncwarp();
  RowState& state = shared.rows[row];
  if (state.work.unit < args.num_units) {
    const int lane = this_producer();
    const AttentionParams& params = args.params;
    state.rotations[lane] = rope_rotation(state.work.position, params.freqs[lane]);
#pragma unroll
    for (int i = 0; i < kHeadTile / 32; ++i) {
      const int head = lane + 32 * i;
      if (head < state.work.heads.num_heads) state.sinks[head] = params.sink[state.work.heads.head_begin + head] * kLog2E;
    }
  }
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

// The key of a piece that a lane looks for.
struct LaneKey {
  const uint8_t* values;
  uint2 scales;
  bool is_key;
};

__device__ __forceinline__ int entry_of(const Arguments& args, const Work& work, int piece) {
  return piece < work.piece_end ? find_entry(args, work, key_of(piece, this_producer())) : -1;
}

template <int kDim>
__device__ __forceinline__ LaneKey begin_key(const Arguments& args, const Work& work, int piece, int entry, int page_idx) {
  const EntryPlace place = locate<kDim>(args, work, key_of(piece, this_producer()), entry, page_idx);
  return {place.values, read_scales<kDim>(place), entry >= 0};
}

// How a producer warp brings blocks of a tile, two at once (a fill), to shared memory. It has 16 keys of every tile; a lane has 16 coded
// dims of two of them in every block, or 16 rotated dims. The bytes come asynchronously to where the values will be, a lane's 16 codes to
// the first of its two chunks, and become values there.
template <int kDim>
struct Fills {
  static constexpr int kBlocks = kDim / kBlockDims, kFillBlocks = kBlocks > 1 ? 2 : 1, kTileFills = kBlocks / kFillBlocks;
  static constexpr int kTileBytes = kBlocks * kBlockBytes;
  static constexpr int kLag = kTileFills < 3 ? kTileFills : 3;  // fills whose bytes are under way, at most

  // Whether a block has codes, and not the rotated dims.
  static constexpr bool is_coded(int block) { return block < kBlocks - 1; }

  // Where a lane's 16 dims of its first key are, in the first block of tile 0.
  static __device__ __forceinline__ uint32_t first_chunk(const SharedMemory<kDim>& shared) {
    const unsigned producer = this_producer(), lane = producer % 32, row = producer / 32 * 16 + lane / 4;
    return ptx::shared_address(shared.keys[0][0]) + swizzled_offset(row, 2 * (lane % 4));
  }

  // `place`: the lane's, in the tile.
  static __device__ __forceinline__ void load(uint32_t place, int fill, const QuadKeys& keys) {
#pragma unroll
    for (int k = 0; k < 2 * kFillBlocks; ++k) {
      const int block = fill * kFillBlocks + k / 2, i = k % 2;
      const uint8_t* values = keys.values[i] + block * kBlockDims;
      const uint32_t offset = block * kBlockBytes + i * kSwizzleAtomBytes;
      if (is_coded(block)) {
        ptx::async_load_16(place + offset, values, true);
      } else {
        values += static_cast<unsigned>(ptx::thread_here()) % 4 * 16;
        ptx::async_load_16(place + offset, values, true);
        ptx::async_load_16((place ^ 16) + offset, values + 16, true);
      }
    }
    ptx::async_load_commit();
  }

  static __device__ __forceinline__ void convert(uint32_t place, int fill, const uint2 (&scales)[2]) {
    uint4 words[2 * kFillBlocks][2];
#pragma unroll
    for (int k = 0; k < 2 * kFillBlocks; ++k) {
      const int block = fill * kFillBlocks + k / 2;
      const uint32_t offset = block * kBlockBytes + k % 2 * kSwizzleAtomBytes;
      words[k][0] = ptx::load_shared(place + offset);
      if (!is_coded(block)) words[k][1] = ptx::load_shared((place ^ 16) + offset);
    }
#pragma unroll
    for (int k = 0; k < 2 * kFillBlocks; ++k) {
      const int block = fill * kFillBlocks + k / 2;
      const uint32_t offset = block * kBlockBytes + k % 2 * kSwizzleAtomBytes;
      const PermutedDims dims =
          is_coded(block) ? permuted_f16(words[k][0], f16_scale_pair(block < 4 ? scales[k % 2].x : scales[k % 2].y, block % 4))
                          : permuted_f16(words[k][0], words[k][1]);
      ptx::store_shared(place + offset, dims.chunks[0]);
      ptx::store_shared((place ^ 16) + offset, dims.chunks[1]);
    }
  }
};

// A tile of the piece of which a lane has looked for `key`, with the given parity. Bytes are asked for as their blocks become free; no
// block of another tile is waited for before all are filled: the consumers may be waiting for these.
template <int kDim>
__device__ __forceinline__ void produce_tile(SharedMemory<kDim>& shared, int tile, uint32_t first_chunk, uint32_t parity, const LaneKey& key) {
  using F = Fills<kDim>;
  const uint32_t place = first_chunk + tile * F::kTileBytes;
  const QuadKeys keys = quad_keys(key.values, tile);
  uint2 scales[2];
#pragma unroll
  for (int step = 0; step < F::kTileFills + F::kLag; ++step) {
    if (step < F::kTileFills) {
#pragma unroll
      for (int b = 0; b < F::kFillBlocks; ++b) ptx::mbarrier_wait(&shared.empty[tile][step * F::kFillBlocks + b], parity ^ 1);
      if (step == 0) {  // a block is freed when the bias of its tile has been read
        const int looked_for = key_of_producer(this_producer());
        if (looked_for / kTileKeys == tile) shared.bias[tile][looked_for % kTileKeys] = key.is_key ? 0.0f : __int_as_float(0xff800000);
      }
      F::load(place, step, keys);
    }
    const int fill = step - F::kLag + 1;
    if (fill < 0 || fill >= F::kTileFills) continue;
    constexpr int kLast = F::kTileFills - 1;
    if (step == 0 || fill == kLast) {
      ptx::async_load_wait<0>();
    } else if (F::kLag == 3 && step < F::kTileFills) {
      ptx::async_load_wait<2>();
    } else {
      ptx::async_load_wait<1>();
    }
    if (fill == 0) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        scales[i].x = __shfl_sync(0xffffffffu, key.scales.x, tile * 2 + i, 4);
        scales[i].y = __shfl_sync(0xffffffffu, key.scales.y, tile * 2 + i, 4);
      }
    }
    F::convert(place, fill, scales);
    ptx::mbarrier_arrive(&shared.full[tile][fill]);
  }
}

// The producers' way through the CTA's pieces, row after row. While a piece is produced, the one behind is looked up: of the same row or the
// next one, which is announced at a row's second piece, or its only one.
template <int kDim>
__device__ __forceinline__ void produce(const Arguments& args, SharedMemory<kDim>& shared) {
  if (first_turn(args).unit >= args.num_units) return;
  const bool announces = this_producer() < 32;
  const uint32_t first_chunk = Fills<kDim>::first_chunk(shared);
  const auto announce_next = [&](int row) {
    ptx::mbarrier_wait(&shared.row_begun, row);
    announce_work<kDim>(args, shared, shared.rows[row].work.unit + first_turn(args).step, row ^ 1);
    announce_rest<kDim>(args, shared, row ^ 1);
  };
  Parities parities;
  LaneKey key{};
  bool is_first = true, is_known = false;
  if (announces) announce_work<kDim>(args, shared, first_turn(args).unit, 0);
  ptx::mbarrier_wait(&shared.work_full, 0);
#pragma unroll 1
  while (shared.rows[parities.row()].work.unit < args.num_units) {
    const Work& work = shared.rows[parities.row()].work;
    const int num_pieces = work.piece_end - work.piece_begin;
    if (!is_known && num_pieces > 0) {
      const int entry = entry_of(args, work, work.piece_begin);
      key = begin_key<kDim>(args, work, work.piece_begin, entry, find_page(args, work, key_of(work.piece_begin, this_producer()), entry));
    }
    if (num_pieces == 0 && announces && is_first) announce_rest<kDim>(args, shared, 0);
    ptx::mbarrier_arrive(&shared.row_begun);
#pragma unroll 1
    for (int i = 0; i < num_pieces; ++i) {
      const bool is_last = i + 1 == num_pieces;
      produce_tile<kDim>(shared, 0, first_chunk, parities.piece(), key);
      if (announces && is_first) announce_rest<kDim>(args, shared, 0);
      is_first = false;
      if (announces && i == min(1, num_pieces - 1)) announce_next(parities.row());
      if (is_last) ptx::mbarrier_wait(&shared.work_full, parities.row() ^ 1);
      const Work& next_work = is_last ? shared.rows[parities.row() ^ 1].work : work;
      const int next = is_last ? next_work.piece_begin : work.piece_begin + i + 1;
      const int entry = entry_of(args, next_work, next);
      const int page_idx = find_page(args, next_work, key_of(next, this_producer()), entry);
      produce_tile<kDim>(shared, 1, first_chunk, parities.piece(), key);
      if (next < next_work.piece_end) key = begin_key<kDim>(args, next_work, next, entry, page_idx);
      parities.next_piece();
    }
    is_known = num_pieces > 0;
    if (!is_known && announces) announce_next(parities.row());
    is_first = false;
    parities.next_row();
    ptx::mbarrier_wait(&shared.work_full, parities.row());
  }
}

}  // namespace dsv4::cuda
