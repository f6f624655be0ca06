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
  uint64_t row_full;   // and the rest of its state
  uint64_t row_begun;  // by the consumers, who are done with the row before
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

// The first producer warp finds out about the row that is announced next, the consumers being done with what it overwrites: first the work
// on a unit, which the producers wait for, then the rest.
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
  __syncwarp();
  if (this_producer() == 0) ptx::mbarrier_arrive(&shared.row_full);
}

// The key of a piece that a lane looks for.
struct LaneKey {
  const uint8_t* values;
  uint2 scales;
  bool is_key;
};

template <int kDim>
__device__ __forceinline__ LaneKey begin_key(const Arguments& args, const Work& work, int piece, int entry, int page_idx) {
  const EntryPlace place = locate<kDim>(args, work, key_of(piece, this_producer()), entry, page_idx);
  return {place.values, read_scales<kDim>(place), entry >= 0};
}

// Waits until the oldest of `num` groups of a lane's loads, at most four, is complete.
__device__ __forceinline__ void wait_for_oldest(unsigned num) {
  if (num == 4) {
    ptx::async_load_wait<3>();
  } else if (num == 3) {
    ptx::async_load_wait<2>();
  } else if (num == 2) {
    ptx::async_load_wait<1>();
  } else {
    ptx::async_load_wait<0>();
  }
}

// A producer warp's way through the CTA's pieces: tile 0 of a piece, then tile 1, two blocks at once (a fill). Of a tile a warp has 16 keys;
// a lane has 16 coded dims of two of them in every block, or 16 rotated dims. Blocks' bytes are asked for as soon as the blocks are free,
// and come to where their values will be: a lane's 16 codes to the first of its two chunks. They become values when no block is free, oldest
// first. Nothing is waited for while blocks are to be filled, as the consumers may be waiting for these.
template <int kDim>
class Production {
 public:
  __device__ __forceinline__ Production(const Arguments& args, SharedMemory<kDim>& shared, Parities parities, const LaneKey& key)
      : args_(args),
        shared_(shared),
        key_(key),
        producer_(this_producer()),
        piece_(shared.rows[parities.row()].work.piece_begin),
        parities_(parities) {
    const unsigned lane = producer_ % 32, row = producer_ / 32 * 16 + lane / 4;
    first_chunk_ = ptx::shared_address(shared.keys[0][0]) + swizzled_offset(row, 2 * (lane % 4));
  }

  // To a row without pieces, which is returned.
  __device__ __forceinline__ Parities run() {
#pragma unroll 1
    while (true) {
      if (can_load()) {
        load();
      } else if (num_loaded_ != num_filled_) {
        fill();
      } else if (!has_piece_) {
        return parities_;
      }
    }
  }

 private:
  static constexpr unsigned kBlocks = kDim / kBlockDims, kFillBlocks = kBlocks > 1 ? 2 : 1;
  static constexpr unsigned kTileFills = kBlocks / kFillBlocks, kPieceFills = kTiles * kTileFills;
  static constexpr unsigned kAhead = kTileFills < 4 ? kTileFills : 4;  // fills whose loads are under way, at most

  // What is known about the piece behind, or the one that it is.
  struct PieceAhead {
    const Work& work;
    int piece;
  };

  __device__ __forceinline__ uint32_t place_of(unsigned in_piece) const { return first_chunk_ + in_piece * (kFillBlocks * kBlockBytes); }

  __device__ __forceinline__ const Work& work() const { return shared_.rows[parities_.row()].work; }

  __device__ __forceinline__ PieceAhead piece_ahead() const {
    if (piece_ + 1 < work().piece_end) return {work(), piece_ + 1};
    const Work& next = shared_.rows[parities_.row() ^ 1].work;
    return {next, next.piece_begin};
  }

  // Of a barrier's phase; the same for all lanes.
  static __device__ __forceinline__ bool is_complete(uint64_t* barrier, uint32_t parity) {
    return __all_sync(0xffffffffu, ptx::mbarrier_test(barrier, parity));
  }

  // Whether the next blocks are free. The piece behind is found out about in the middle of a piece.
  __device__ __forceinline__ bool can_load() {
    if (!has_piece_ || num_loaded_ - num_filled_ == kAhead) return false;
    const unsigned in_piece = num_loaded_ % kPieceFills;
    if (in_piece == kTileFills && !knows_next_ && !find_next()) return false;
    uint64_t* empty = &shared_.empty[0][0] + in_piece * kFillBlocks;
    const uint32_t parity = parities_.piece() ^ 1;
    bool is_free = ptx::mbarrier_test(empty, parity);
    if constexpr (kFillBlocks == 2) is_free = ptx::mbarrier_test(empty + 1, parity) && is_free;
    return __all_sync(0xffffffffu, is_free);
  }

  // The next row is announced at a row's second piece, or its only one.
  __device__ __forceinline__ bool find_next() {
    const int row = parities_.row();
    if (producer_ < 32 && !has_announced_ && piece_ == min(work().piece_begin + 1, work().piece_end - 1)) {
      if (!is_complete(&shared_.row_begun, row)) return false;
      announce_work<kDim>(args_, shared_, work().unit + first_turn(args_).step, row ^ 1);
      announce_rest<kDim>(args_, shared_, row ^ 1);
      has_announced_ = true;
    }
    if (piece_ + 1 == work().piece_end && !is_complete(&shared_.work_full, row ^ 1)) return false;
    knows_next_ = true;
    const PieceAhead next = piece_ahead();
    entry_ = next.piece < next.work.piece_end ? find_entry(args_, next.work, key_of(next.piece, producer_)) : -1;
    return true;
  }

  __device__ __forceinline__ void load() {
    const unsigned in_piece = num_loaded_ % kPieceFills, in_tile = in_piece % kTileFills;
    if (in_tile == 0) {
      const int tile = in_piece / kTileFills, looked_for = key_of_producer(producer_);
      // A block is freed when the bias of its tile has been read.
      if (looked_for / kTileKeys == tile) shared_.bias[tile][looked_for % kTileKeys] = key_.is_key ? 0.0f : __int_as_float(0xff800000);
      keys_ = quad_keys(key_.values, tile);
    }
    const uint32_t place = place_of(in_piece);
#pragma unroll
    for (unsigned b = 0; b < kFillBlocks; ++b) {
      const bool is_coded = b + 1 < kFillBlocks || in_tile + 1 < kTileFills;
#pragma unroll
      for (unsigned i = 0; i < 2; ++i) {
        const uint8_t* values = keys_.values[i] + (in_tile * kFillBlocks + b) * kBlockDims;
        const uint32_t offset = b * kBlockBytes + i * kSwizzleAtomBytes;
        if (is_coded) {
          ptx::async_load_16(place + offset, values, true);
        } else {
          values += static_cast<unsigned>(producer_) % 4 * 16;
          ptx::async_load_16(place + offset, values, true);
          ptx::async_load_16((place ^ 16) + offset, values + 16, true);
        }
      }
    }
    ptx::async_load_commit();
    ++num_loaded_;
    if (in_piece == kTileFills + kTileFills / 2) {
      const PieceAhead next = piece_ahead();
      page_ = find_page(args_, next.work, key_of(next.piece, producer_), entry_);
    }
    if (in_piece == kPieceFills - 1) end_piece();
  }

  // Of loads.
  __device__ __forceinline__ void end_piece() {
    const PieceAhead next = piece_ahead();
    const bool is_next_row = piece_ + 1 == work().piece_end;
    has_piece_ = next.work.has_pieces();
    scales_ = key_.scales;
    if (has_piece_) key_ = begin_key<kDim>(args_, next.work, next.piece, entry_, page_);
    piece_ = next.piece;
    if (is_next_row) {
      parities_.next_row();
      has_announced_ = false;
    }
    parities_.next_piece();
    knows_next_ = false;
  }

  // The values of the oldest blocks that are loaded.
  __device__ __forceinline__ void fill() {
    wait_for_oldest(num_loaded_ - num_filled_);
    const unsigned in_piece = num_filled_ % kPieceFills, in_tile = in_piece % kTileFills, tile = in_piece / kTileFills;
    const uint32_t first = place_of(in_piece), second = first ^ 16;
    uint4 words[kFillBlocks][2];
#pragma unroll
    for (unsigned k = 0; k < 2 * kFillBlocks; ++k) words[k / 2][k % 2] = ptx::load_shared(first + k / 2 * kBlockBytes + k % 2 * kSwizzleAtomBytes);
    // The loads may be in the next piece.
    const uint2 of_lane = num_loaded_ / kPieceFills != num_filled_ / kPieceFills ? scales_ : key_.scales;
    const uint32_t codes = in_tile * kFillBlocks < 4 ? of_lane.x : of_lane.y;
    uint32_t of_keys[2];  // codes of the fill's blocks
#pragma unroll
    for (int i = 0; i < 2; ++i) of_keys[i] = __shfl_sync(0xffffffffu, codes, tile * 2 + i, 4) >> in_tile * kFillBlocks % 4 * 8;
#pragma unroll
    for (unsigned b = 0; b < kFillBlocks; ++b) {
      const bool is_coded = b + 1 < kFillBlocks || in_tile + 1 < kTileFills;
#pragma unroll
      for (unsigned i = 0; i < 2; ++i) {
        const uint32_t offset = b * kBlockBytes + i * kSwizzleAtomBytes;
        const PermutedDims dims = is_coded ? permuted_f16(words[b][i], f16_scale_pair(of_keys[i], b))
                                           : permuted_f16(words[b][i], ptx::load_shared(second + offset));
        ptx::store_shared(first + offset, dims.chunks[0]);
        ptx::store_shared(second + offset, dims.chunks[1]);
      }
    }
    ptx::mbarrier_arrive(&shared_.full[tile][in_tile]);
    ++num_filled_;
  }

  const Arguments& args_;
  SharedMemory<kDim>& shared_;
  LaneKey key_;    // of the piece that is loaded
  uint2 scales_{};  // of the piece before
  QuadKeys keys_{};
  uint32_t first_chunk_;
  int producer_;
  int piece_;  // that is loaded
  Parities parities_;
  unsigned num_loaded_ = 0, num_filled_ = 0;  // fills
  int entry_ = -1, page_ = 0;                 // of the piece behind
  bool has_piece_ = true, knows_next_ = false, has_announced_ = false;
};

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

template <int kDim>
__device__ __forceinline__ void produce(const Arguments& args, SharedMemory<kDim>& shared) {
  if (first_turn(args).unit >= args.num_units) return;
  Parities parities;
  const bool announces = this_producer() < 32;
  bool is_first = true;
  if (announces) announce_work<kDim>(args, shared, first_turn(args).unit, 0);
  ptx::mbarrier_wait(&shared.work_full, 0);
#pragma unroll 1
  while (shared.rows[parities.row()].work.unit < args.num_units) {
    const Work& work = shared.rows[parities.row()].work;
    LaneKey key{};
    if (work.has_pieces()) {
      const int index = key_of(work.piece_begin, this_producer()), entry = find_entry(args, work, index);
      key = begin_key<kDim>(args, work, work.piece_begin, entry, find_page(args, work, index, entry));
    }
    if (is_first && announces) announce_rest<kDim>(args, shared, 0);
    is_first = false;
    if (work.has_pieces()) {
      parities = Production<kDim>(args, shared, parities, key).run();
    } else {
      if (announces) {
        ptx::mbarrier_wait(&shared.row_begun, parities.row());
        announce_work<kDim>(args, shared, work.unit + first_turn(args).step, parities.row() ^ 1);
        announce_rest<kDim>(args, shared, parities.row() ^ 1);
      }
      parities.next_row();
      ptx::mbarrier_wait(&shared.work_full, parities.row());
    }
  }
}

}  // namespace dsv4::cuda
