// Core attention with sink (ops/attention.h) on wgmma, f16 operands and fp32 sums.
//
// Work. A row × 64 heads belongs to a CTA, or to several: of a team some for other tiles of S and other columns of the output
// (attention_team.h), others for other keys. Keys (window ascending, then entries) come in pieces of two tiles of 64. Every tile's products
// start from zero, relative to the tile's own maxima, and are added to those of the tiles before it in fp32, with exact factors (fold(),
// block/attention_output.h). So a row's bits depend on its keys alone, not on who computed which tile and which columns:
// make_attention_plan() chooses what fills the GPU.
//
//   finder warpgroup        rows → pieces → where their keys are, a piece ahead; rotated dims, and Q of the next row → shared memory
//   producer warpgroup      FP8 codes → shared memory, three pairs of words ahead → f16 → tile 0, then tile 1, block of 64 dims by block
//   consumer warpgroup 0    S of tile 0 | softmax | P → shared | O += P·V of tile 0 | P of tile 1 ← shared | O += P·V of tile 1
//   consumer warpgroup 1    S of tile 1 | softmax | P of tile 0 ← shared, P → shared | O += P·V of tile 0 | of tile 1
//
// The warpgroups have half of the columns each. Of a tile they need nothing from each other but P, so that one multiplies while the other
// is at its softmax. A block of 64 dims × 64 keys is filled again as soon as the warpgroup that has these columns is done with it: the next
// piece arrives while this one's values are multiplied, and its S begins with the blocks that came first. A row is stored while the keys
// and Q of the next one arrive.
//
// Numbers. P is taken as two f16, high and low: 22 bits. Maxima are rounded up to integers (of logits in powers of two), so that changing
// them is exact; P is up to 2^15, which puts the low term of what matters above the subnormals.
//
// Budget per piece, D = 512: S 2 × 32 wgmma m64n64k16 = 2048 cycles, O 4096. docs/kernels/attention.md.
#include "backend/cuda/block/attention_output.h"
#include "backend/cuda/block/key_tile.h"
#include "backend/cuda/ops.h"
#include "backend/cuda/ptx/cluster.h"
#include "backend/cuda/ptx/copy.h"
#include "backend/cuda/ptx/counter.h"
#include "backend/cuda/ptx/grid.h"
#include "backend/cuda/ptx/registers.h"
#include "backend/cuda/sm90/attention_finders.h"
#include "backend/cuda/sm90/attention_keys.h"
#include "backend/cuda/sm90/attention_plan.h"
#include "backend/cuda/sm90/attention_products.h"
#include "backend/cuda/sm90/attention_team.h"
#include "backend/cuda/sm90/attention_weights.h"
#include "backend/cuda/sm90/attention_work.h"

namespace dsv4::cuda {
namespace {

template <class S>
__device__ __forceinline__ void clear(RowSums& row_sums, Output<S>& o) {
#pragma unroll
  for (int row = 0; row < 2; ++row) row_sums[row] = PartSum{};
#pragma unroll
  for (int i = 0; i < S::kGroupBlocks; ++i) {
#pragma unroll
    for (int k = 0; k < 32; ++k) o[i][k] = 0.0f;
  }
}

// A thread's vector v of a part in scratch memory.
__device__ __forceinline__ int part_place(int thread, int v) {
  return v * kConsumers + thread;
}

// The first part of a unit in scratch memory; a CTA that shares no rows has a place of its own.
__device__ __forceinline__ int64_t first_part_index(const Arguments& args, const Work& work) {
  return static_cast<int64_t>(args.split > 1 ? work.unit : static_cast<int>(blockIdx.x)) * args.max_parts;
}

// The end of a part: into scratch memory, and the sums start anew.
template <class S>
__device__ __forceinline__ void hand_over(const Arguments& args, const Work& work, const Part& part, int thread, RowSums& row_sums,
                                          Output<S>& o) {
  constexpr int kVectors = S::kVectors;
  const int64_t index = first_part_index(args, work) + part.index;
  float4* place = args.parts + index * kVectors * kConsumers;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const float* values = o[v / 8] + v % 8 * 4;
    __stcg(place + part_place(thread, v), make_float4(values[0], values[1], values[2], values[3]));
  }
  int2* sums = reinterpret_cast<int2*>(args.part_sums) + index * kConsumers * 2 + thread;
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    __stcg(sums + row * kConsumers, make_int2(row_sums[row].maximum, __float_as_int(row_sums[row].total)));
  }
  clear<S>(row_sums, o);
}

// Whether a CTA sums up a row in its registers.
__device__ __forceinline__ bool is_alone(const Arguments& args, const Work& work) {
  return work.num_keys == 0 || (args.split == 1 && work.counts.num_groups == 1);
}

// Which row of a CTA a warp is at, with which parity it waits for a piece, and whether the other warpgroup may still be storing the row
// before.
struct ConsumerTurn {
  uint32_t bits = 0;

  __device__ __forceinline__ uint32_t row() const { return static_cast<uint32_t>(ptx::computed_here(static_cast<int>(bits))) >> 2; }
  __device__ __forceinline__ uint32_t phase() const { return bits & 1; }
  __device__ __forceinline__ bool is_storing() const { return ptx::any_lane((bits & 2) != 0); }
  __device__ __forceinline__ void next_row() { bits = (bits | 2) + 4; }
  __device__ __forceinline__ void next_piece() { bits = (bits & ~2u) ^ 1; }
};

template <int kDim>
__device__ __forceinline__ const Work& work_of(const SharedMemory<kDim>& shared, const ConsumerTurn& turn) {
  return shared.works[turn.row() % 4];
}

// The part that the calling warp is summing up; in shared memory, as it has no registers to spare.
template <int kDim>
__device__ __forceinline__ Part& this_part(SharedMemory<kDim>& shared) {
  return shared.consumer_parts[ptx::thread_here() / 32];
}

// The consumers' work on the CTA's pieces of a row: into scratch memory, or, of a short row that is not shared, o and row_sums.
template <class S>
__device__ __forceinline__ void consume(const Arguments& args, SharedMemory<S::kDim>& shared, int group, ConsumerTurn& turn,
                                        RowSums& row_sums, Output<S>& o) {
  constexpr bool kAll = S::kGroups == 2;  // warpgroups have columns
  uint32_t left;                          // pieces of the row << 16 | tiles of the part
  static_assert(kAttentionMaxKeys / kPieceKeys <= 0xffff);
  const auto begin_part = [&](const Part& part, int tile) {
    __syncwarp();
    if (ptx::thread_here() % 32 == 0) this_part(shared) = part;
    __syncwarp();
    left = (left & 0xffff0000u) | static_cast<uint32_t>(part.tile_end - tile);
  };
  {
    const Work& work = work_of(shared, turn);
    left = static_cast<uint32_t>(work.piece_end - work.piece_begin) << 16;
    if (is_alone(args, work)) {
      left |= 0x7fff;  // the part does not end
    } else {
      begin_part(work.first_part, work.piece_begin * kTiles);
    }
  }
  clear<S>(row_sums, o);
#pragma unroll 1
  for (; left >= 0x10000u; left -= 0x10000u) {
    TileWeights weights;
    {
      float s[kTileKeys / 2];
      const uint2 mask = multiply_keys<S::kDim>(shared, group, turn.phase(), s);
      if (left < 0x20000u) ptx::mbarrier_arrive(&shared.q_empty);
      weigh_keys(ptx::thread_here(), mask, args.logit_scale, s, weights);
      if (kAll && group == 0) store_sums<S::kDim>(shared, 0, ptx::thread_here(), weights);  // P itself beside the first product
      if (group == 1) exchange_weights<S::kDim>(shared, ptx::thread_here(), turn.phase(), kAll, weights);
      if (!kAll && group == 1) {  // it has read tile 1, too
#pragma unroll
        for (int i = 0; i < S::kBlocks; ++i) ptx::mbarrier_arrive(&shared.empty[1][i]);
      }
    }
#pragma unroll 1
    for (int tile = 0; tile < kTiles && (kAll || group == 0); ++tile) {
      if (tile == 1) {
        if (group == 0) ptx::mbarrier_wait(&shared.p_full[1][ptx::thread_here() / 32 % 4], turn.phase());
        load_weights<S::kDim>(shared, ptx::thread_here(), weights);
        load_sums<S::kDim>(shared, 1, ptx::thread_here(), weights);
        ptx::mbarrier_arrive(&shared.p_read[group ^ 1]);
      }
      const int slot = group * S::kGroupBlocks;
      add_tile<S>(
          uniform_descriptor(shared.keys[tile][slot]), weights, row_sums, o, [](int) {},
          [&](int i) { ptx::mbarrier_arrive(&shared.empty[tile][slot + i]); },
          [&] {
            if (!kAll || tile == 1 || group == 1) return;
            if (turn.is_storing()) ptx::mbarrier_wait(&shared.p_empty, turn.row() % 2 ^ 1);
            store_weights<S::kDim>(shared, ptx::thread_here(), weights);
            ptx::mbarrier_arrive(&shared.p_full[0][ptx::thread_here() / 32 % 4]);
          });
      if ((--left & 0xffff) != 0) continue;
      const Work& work = work_of(shared, turn);
      const Part part = this_part(shared);
      hand_over<S>(args, work, part, ptx::thread_here(), row_sums, o);
      begin_part(next_part(work, part), part.tile_end);
    }
    if (kAll || group == 1) ptx::mbarrier_wait(&shared.p_read[group], turn.phase());
    turn.next_piece();
  }
}

// Waits until all CTAs that share a unit's keys have handed over their parts: a cluster, or, where they are too many, CTAs that count their
// arrivals. These are all resident: there are no more of them than SMs, and the next kernel of the stream can begin only when all have
// begun. The counter is 0 again after the last one.
__device__ __forceinline__ void meet(const Arguments& args, int unit, int thread) {
  if (args.is_cluster) return ptx::cluster_sync();
  constexpr uint32_t kLeaves = 1u << 16;
  ptx::named_barrier_sync(kRowBarrier, kConsumers);
  if (thread == 0) {
    const uint32_t num_ctas = static_cast<uint32_t>(args.split);
    uint32_t* counter = args.arrivals + unit;
    __threadfence();
    ptx::add_release(counter, 1);
    while ((ptx::load_acquire(counter) & (kLeaves - 1)) != num_ctas) {
    }
    if (ptx::add_release(counter, kLeaves) / kLeaves == num_ctas - 1) *static_cast<volatile uint32_t*>(counter) = 0;
  }
  ptx::named_barrier_sync(kRowBarrier, kConsumers);
}

// Weights of a thread's two heads; `leads`: the quad writes their LSE.
__device__ __forceinline__ void normalise_heads(const AttentionParams& params, const OutputHeads& heads, const RowOutput& output,
                                                int thread, bool leads, const RowSums& row_sums, HeadSums (&sums)[2]) {
  const int head = first_head(thread);
#pragma unroll
  for (int row = 0; row < 2; ++row) sums[row] = normalise(row_sums[row], output.sinks[head + 8 * row]);
  if (params.lse == nullptr || !leads || thread % 4 >= 2) return;
  const int row = thread % 4;
  if (head + 8 * row >= heads.num_heads) return;
  params.lse[static_cast<int64_t>(heads.row) * params.num_heads + heads.head_begin + head + 8 * row] =
      log_sum_exp({row == 0 ? row_sums[0].maximum : row_sums[1].maximum, row == 0 ? row_sums[0].total : row_sums[1].total},
                  output.sinks[head + 8 * row]);
}

// Stores what shares a scale, of both heads of the thread, from dim `dim` on. o[2v], o[2v + 1]: the sums of vector v, as O has them.
template <int kDim, AttentionOutput kOutput>
__device__ __forceinline__ void emit_vectors(const AttentionParams& params, const OutputHeads& heads, const RowOutput& output, int thread,
                                             int dim, const HeadSums (&sums)[2], const float (&o)[2 * kOutputVectors<kDim, kOutput>][4]) {
  constexpr int kVectors = kOutputVectors<kDim, kOutput>;
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    const int head = first_head(ptx::computed_here(thread)) + 8 * row;
    float values[kVectors][4];
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
#pragma unroll
      for (int i = 0; i < 4; ++i) values[v][i] = o[2 * v + i / 2][2 * row + i % 2] * sums[row].weight;
    }
    const int valid = ptx::computed_here(head < heads.num_heads);  // a predicate would go to local memory
    store_output<kDim, kOutput>(params, static_cast<int64_t>(heads.row) * params.num_heads + heads.head_begin + head, dim + thread % 4 * 4,
                                valid, sums[row].has_keys, output.rotations, values);
  }
}

// Stores a block of a warp's 16 heads in bf16, whole lines, by way of shared memory. `staging`: [16 heads, 64 dims] of the warp. `out`: 16
// bytes of the lane in the head lane / 8 of these 16; `num_heads`: from that one on.
template <int kDim>
__device__ __forceinline__ void emit_block(Bf16* out, int num_heads, const Rotation* rotations, int lane, bool is_rotated,
                                           const HeadSums (&sums)[2], const float (&o)[32], uint8_t* staging) {
  uint32_t words[2][4][2];  // of heads g and g + 8, every 16 dims, two pairs
#pragma unroll
  for (int row = 0; row < 2; ++row) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      words[row][i / 2][i % 2] = ptx::convert_bf16x2(o[4 * i + 2 * row + 1] * sums[row].weight, o[4 * i + 2 * row] * sums[row].weight);
    }
  }
  if (is_rotated) {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      uint32_t& word = words[i / 8][i / 2 % 4][i % 2];
      float even = low_to_float(word), odd = high_to_float(word);
      rotate_back(even, odd, rotations[i / 2 % 4 * 8 + lane % 4 * 2 + i % 2]);
      if (sums[i / 8].has_keys) word = ptx::convert_bf16x2(odd, even);
    }
  }
  // Every 16 dims of head h stand at 32·(i xor h mod 4): what half a warp stores lies in all banks.
  const uint32_t place = ptx::shared_address(staging) + lane / 4 * kSwizzleRowBytes + (lane / 4 % 4 * 32 | lane % 4 * 8);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    ptx::store_shared((place ^ i % 4 * 32) + i / 4 * kSwizzleAtomBytes, make_uint2(words[i / 4][i % 4][0], words[i / 4][i % 4][1]));
  }
  __syncwarp();
  const uint32_t line = ptx::shared_address(staging) + lane / 8 * kSwizzleRowBytes + (lane % 8 * 16 ^ lane / 8 * 32);
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const uint4 values = ptx::load_shared(line + 4 * k * kSwizzleRowBytes);
    if (4 * k < num_heads) *reinterpret_cast<uint4*>(out + 4 * k * kDim) = values;
  }
  __syncwarp();
}

// The output of a row that one CTA has summed up in registers. `staging`: 2 KiB of shared memory of each warp, where P was: of
// warpgroup 0 a warp's heads of the high term, of warpgroup 1 of the low one, so that two warps with the same heads share nothing with
// others.
template <class S, AttentionOutput kOutput>
__device__ __forceinline__ void emit_row(const Arguments& args, const Work& work, const RowOutput& output, int thread,
                                         const RowSums& row_sums, const Output<S>& o, uint8_t* staging) {
  constexpr int kVectors = kOutputVectors<S::kDim, kOutput>;  // of dims: two of O
  const int group = group_of(thread);
  if (S::kGroups == 1 && group == 1) return;
  const OutputHeads heads = work.heads;
  const int first_slot = first_block<S>(work, group);
  HeadSums sums[2];
  normalise_heads(args.params, heads, output, thread, group == 0 && work.column == 0, row_sums, sums);
  if constexpr (kOutput == AttentionOutput::kBf16) {
    const int lane = thread % 32, first_row = thread / 32 % 4 * 16 + lane / 8;
    const int64_t head = static_cast<int64_t>(heads.row) * args.params.num_heads + heads.head_begin + first_row;
    Bf16* out = static_cast<Bf16*>(args.params.out) + head * S::kDim + lane % 8 * 8;
#pragma unroll
    for (int i = 0; i < S::kGroupBlocks; ++i) {
      constexpr int kRotatedSlot = Units<S::kDim>::kRotatedSlot;
      // The first term spares copies of code.
      const bool is_rotated = i == kRotatedSlot % S::kGroupBlocks && first_slot + i == kRotatedSlot;
      emit_block<S::kDim>(out + Units<S::kDim>::block_at(first_slot + i) * kBlockDims, heads.num_heads - first_row, output.rotations, lane,
                          is_rotated, sums, o[i], staging + thread / 32 * 2048);
    }
  } else {
#pragma unroll
    for (int first = 0; first < S::kVectors; first += 2 * kVectors) {
      float values[2 * kVectors][4];
#pragma unroll
      for (int v = 0; v < 2 * kVectors; ++v) {
#pragma unroll
        for (int i = 0; i < 4; ++i) values[v][i] = o[(first + v) / 8][(first + v) % 8 * 4 + i];
      }
      emit_vectors<S::kDim, kOutput>(args.params, heads, output, thread, dim_of_vector<S::kDim>(first_slot, first), sums, values);
    }
  }
}

// Some vectors of what a thread of a CTA had summed up, added up over parts.
template <int kVectors>
struct Share {
  PartSum sums[2];
  float4 values[kVectors];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int row = 0; row < 2; ++row) sums[row] = PartSum{};
#pragma unroll
    for (int v = 0; v < kVectors; ++v) values[v] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  }
  __device__ __forceinline__ void add(const PartSum (&part_sums)[2], const float4 (&part_values)[kVectors]) {
    FoldFactors factors[2];
#pragma unroll
    for (int row = 0; row < 2; ++row) factors[row] = fold(sums[row], part_sums[row]);
#pragma unroll
    for (int v = 0; v < kVectors; ++v) fold_vectors(factors, part_values[v], values[v]);
  }
};

// share ← vectors `first` … of thread `source`, of all groups.
template <int kAtOnce, int kVectors>
__device__ __forceinline__ void add_groups(const Arguments& args, const Work& work, int part_vectors, int source, int first,
                                           Share<kVectors>& share) {
  const PartCounts& counts = work.counts;
  const int group_parts = counts.group_parts(), slot_end = counts.num_groups * group_parts;
  const int64_t first_index = first_part_index(args, work);
  Share<kVectors> of_group;
  of_group.clear();
  share.clear();
  int group = 0, in_group_idx = 0, num_parts = counts.parts(group);
#pragma unroll 1
  for (int begin = 0; begin < slot_end; begin += kAtOnce) {
    float4 parts[kAtOnce][kVectors];
    int2 sums[kAtOnce][2];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const int64_t part = first_index + min(begin + k, slot_end - 1);
      const float4* place = args.parts + part * part_vectors + part_place(source, first);
#pragma unroll
      for (int v = 0; v < kVectors; ++v) parts[k][v] = __ldcg(place + part_place(0, v));
      const int2* part_sums = reinterpret_cast<const int2*>(args.part_sums) + part * kConsumers * 2 + source;
      sums[k][0] = __ldcg(part_sums);
      sums[k][1] = __ldcg(part_sums + kConsumers);
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (begin + k >= slot_end) break;
      if (in_group_idx < num_parts) {
        const PartSum part_sums[2] = {{sums[k][0].x, __int_as_float(sums[k][0].y)}, {sums[k][1].x, __int_as_float(sums[k][1].y)}};
        of_group.add(part_sums, parts[k]);
      }
      if (++in_group_idx < group_parts) continue;
      in_group_idx = 0;
      num_parts = counts.parts(++group);
      share.add(of_group.sums, of_group.values);
      of_group.clear();
    }
  }
}

// The output of a row whose parts are in scratch memory: every warp of the CTAs that share it adds up what a warp of a CTA had, some
// vectors of it at a time.
template <class S, AttentionOutput kOutput>
__device__ __forceinline__ void emit_shares(const Arguments& args, const Work& work, const RowOutput& output) {
  constexpr int kVectors = 2 * kOutputVectors<S::kDim, kOutput>;
  constexpr int kAtOnce = kVectors <= 2 ? 10 : kVectors <= 4 ? 4 : 1;
  constexpr int kSources = 4 * S::kGroups, kItems = S::kVectors / kVectors * kSources;
  const int thread = ptx::thread_here();
#pragma unroll 1
  for (int item = thread / 32 * args.split + first_turn_of<S>(args).rank; item < kItems; item += args.split * kWarps) {
    const int first = item / kSources * kVectors, source = item % kSources * 32 + thread % 32;
    Share<kVectors> share;
    add_groups<kAtOnce, kVectors>(args, work, S::kVectors * kConsumers, source, first, share);
    const int first_slot = first_block<S>(work, source / kGroupThreads);
    HeadSums sums[2];
    normalise_heads(args.params, work.heads, output, source, source < kGroupThreads && work.column == 0 && first == 0, share.sums, sums);
    float values[kVectors][4];
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      values[v][0] = share.values[v].x;
      values[v][1] = share.values[v].y;
      values[v][2] = share.values[v].z;
      values[v][3] = share.values[v].w;
    }
    emit_vectors<S::kDim, kOutput>(args.params, work.heads, output, source, dim_of_vector<S::kDim>(first_slot, first), sums, values);
  }
}

// Where emit_row() stages: P's place, in which a team has something else; there what its own tiles needed.
template <class S>
__device__ __forceinline__ uint8_t* staging_of(SharedMemory<S::kDim>& shared) {
  using Memory = SharedMemory<S::kDim>;
  static_assert(offsetof(Memory, words) % kSwizzleRowBytes == 0);
  static_assert(!S::kIsTeam || offsetof(Memory, places) + sizeof(Memory::places) - offsetof(Memory, words) >= kWarps * 2048);
  return S::kIsTeam ? shared.words[0][0] : shared.p[0];
}

template <class S, AttentionOutput kOutput>
__device__ __forceinline__ void consume_rows(const Arguments& args, SharedMemory<S::kDim>& shared) {
  constexpr bool kAll = S::kGroups == 2;  // warpgroups have columns
  int unit = first_turn_of<S>(args).unit;
  const int group = group_of(ptx::thread_here());
  ConsumerTurn turn;
#pragma unroll 1
  while (unit < args.num_units) {
    if (turn.row() == 0) {
      if (S::kIsTeam) ptx::mbarrier_wait(&shared.work_full[0], 0);  // the way to the keys is longer
      QueryCopy<S::kDim, kConsumers>::begin(args.params, heads_of(args, ptx::computed_here(unit)), shared, ptx::thread_here());
      QueryCopy<S::kDim, kConsumers>::end(shared, ptx::thread_here());
      ptx::named_barrier_sync(kRowBarrier, kConsumers);
    } else {
      ptx::mbarrier_wait(&shared.q_full, turn.row() % 2 ^ 1);
      if (!kAll) {
        ptx::named_barrier_sync(kRowBarrier, kConsumers);  // warpgroup 0 has stored the row before
      } else if (group == 1) {
        ptx::mbarrier_arrive(&shared.p_empty);
      }
    }
    ptx::mbarrier_wait(&shared.work_full[turn.row() % 2], turn.row() / 2 % 2);
    if (!work_of(shared, turn).has_pieces()) {
      if (kAll && group == 0 && turn.is_storing()) ptx::mbarrier_wait(&shared.p_empty, turn.row() % 2 ^ 1);
      ptx::mbarrier_arrive(&shared.q_empty);
    }
    if (const Work& work = work_of(shared, turn); work.position < 0) {
      if (first_turn_of<S>(args).rank == 0 && work.column == 0 && work.member == 0) {
        write_padding(args.params, work.heads, ptx::thread_here(), kConsumers);
      }
    } else {
      RowSums row_sums;
      Output<S> o;
      if constexpr (S::kIsTeam) {
        clear<S>(row_sums, o);
        consume_of_team<S>(args, shared, group, row_sums, o);
        if (!has_columns(args, work_of(shared, turn))) return;
        if (const Work& work_done = work_of(shared, turn); work_done.has_pieces() && !is_alone(args, work_done)) {
          hand_over<S>(args, work_done, work_done.first_part, ptx::thread_here(), row_sums, o);
        }
      } else {
        consume<S>(args, shared, group, turn, row_sums, o);
      }
      ptx::mbarrier_wait(&shared.output_full[turn.row() % 2], turn.row() / 2 % 2);
      const Work& work_done = work_of(shared, turn);
      const RowOutput& output = shared.outputs[turn.row() % 2];
      if (is_alone(args, work_done)) {
        if (first_turn_of<S>(args).rank == 0) {
          emit_row<S, kOutput>(args, work_done, output, ptx::thread_here(), row_sums, o, staging_of<S>(shared));
        }
      } else {
        if (args.split > 1) {
          meet(args, work_done.unit, ptx::thread_here());
        } else {
          ptx::named_barrier_sync(kRowBarrier, kConsumers);
        }
        emit_shares<S, kOutput>(args, work_done, output);
        if (args.split == 1) ptx::named_barrier_sync(kRowBarrier, kConsumers);  // the parts may be overwritten
      }
    }
    unit = work_of(shared, turn).unit + first_turn_of<S>(args).step;
    turn.next_row();
  }
}

// Two or three threads do, barrier by barrier: their addresses are then known, where those of a thread each would be taken one after the
// other.
template <class S>
__device__ __forceinline__ void init_barriers(SharedMemory<S::kDim>& shared) {
  using U = Units<S::kDim>;
  constexpr bool kBothReadTile1 = !S::kIsTeam && S::kGroups == 1;
  constexpr int kMovers = (U::kCoded > 0 ? kProducers : 0) + kFinders;  // of the last blocks of a tile, coded and rotated
  if (ptx::thread_here() == 0) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < U::kFills; ++i) ptx::mbarrier_init(&shared.full[tile][i], i == U::kRotatedSlot / 2 ? kMovers : kProducers);
#pragma unroll
      for (int i = 0; i < U::kBlocks; ++i) {
        ptx::mbarrier_init(&shared.empty[tile][i], kBothReadTile1 && tile == 1 ? kConsumers : kGroupThreads);
      }
    }
  } else if (ptx::thread_here() == kGroupThreads) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      ptx::mbarrier_init(&shared.places_full[i], kFinders);
      ptx::mbarrier_init(&shared.scales_full[i], kFinders);
      ptx::mbarrier_init(&shared.places_empty[i], kMovers);
      ptx::mbarrier_init(&shared.work_full[i], 1);
      ptx::mbarrier_init(&shared.output_full[i], 32);
    }
    ptx::mbarrier_init(&shared.q_full, kFinders);
    ptx::mbarrier_init(&shared.q_empty, kConsumers);
#pragma unroll
    for (int i = 0; i < kTiles * kWarps / 2; ++i) ptx::mbarrier_init(&shared.p_full[0][i], 32);
#pragma unroll
    for (int i = 0; i < 2; ++i) ptx::mbarrier_init(&shared.p_read[i], kGroupThreads);
    ptx::mbarrier_init(&shared.p_empty, kGroupThreads);
  } else if (S::kIsTeam && ptx::thread_here() == 2 * kGroupThreads) {
    init_team_barriers<S>(team_memory(shared).barriers);
  }
}

template <class S, AttentionOutput kOutput>
__global__ void __launch_bounds__(kThreads, 1) attention_kernel(const __grid_constant__ Arguments args) {
  extern __shared__ __align__(kSwizzleAtomBytes) uint8_t memory[];
  using Memory = SharedMemory<S::kDim>;
  Memory& shared = *reinterpret_cast<Memory*>(memory);
  init_barriers<S>(shared);
  ptx::fence_barrier_init();
  __syncthreads();
  ptx::touch_constants(args);
  ptx::grid_dependency_wait();
  ptx::grid_launch_dependents();
  if (S::kIsTeam && args.is_cluster) clear_image_counts(args);
  if (ptx::thread_here() >= kConsumers + kProducers) {
    ptx::decrease_registers<Registers<S::kIsTeam>::kFinder>();
    if constexpr (S::kIsTeam) {
      find_keys_of_team<S>(args, shared);
    } else {
      find_keys<S::kDim>(args, shared);
    }
  } else if (ptx::thread_here() >= kConsumers) {
    ptx::decrease_registers<Registers<S::kIsTeam>::kProducer>();
    if constexpr (Units<S::kDim>::kCoded > 0) produce<S>(shared);
    if constexpr (S::kIsTeam) move_values<S>(args, shared);
  } else {
    ptx::increase_registers<Registers<S::kIsTeam>::kConsumer>();
    consume_rows<S, kOutput>(args, shared);
  }
}

template <class S, AttentionOutput kOutput>
void launch_kernel(Context& context, const AttentionPlan& plan, const Arguments& args) {
  LaunchConfig config;
  config.grid = dim3(static_cast<unsigned>(plan.num_ctas));
  config.block = dim3(kThreads);
  config.shared_bytes = sizeof(SharedMemory<S::kDim>);
  config.cluster_size = plan.cluster_size;
  launch(context, "attention", attention_kernel<S, kOutput>, config, args);
}

template <class S>
void launch_attention(Context& context, const AttentionParams& params, const AttentionPlan& plan) {
  constexpr int kColumns = S::kBlocks / S::kColumnBlocks;  // sets of columns
  Arguments args{};
  args.params = params;
  args.ring_page_bytes = KvEntryLayout{S::kDim}.page_bytes(params.ring.ring_size);
  args.entry_page_bytes = params.entries.data == nullptr ? 0 : KvEntryLayout{S::kDim}.page_bytes(params.entries.entries_per_page);
  args.logit_scale = params.softmax_scale * kLog2E;
  args.num_units = params.batch.num_tokens * num_head_tiles(params) * kColumns;
  args.split = plan.split;
  args.num_pieces = plan.num_pieces;
  args.counts = plan.counts;
  args.max_parts = plan.max_parts;
  uint8_t* scratch = static_cast<uint8_t*>(params.scratch);
  if (S::kIsTeam) {
    args.images = scratch;
    args.team_tiles = plan.team_tiles();
    scratch += plan.image_bytes();
    args.image_counts = context.arrivals == nullptr ? reinterpret_cast<uint32_t*>(scratch) : context.arrivals + kMaxArrivals;
    scratch += int64_t{plan.num_teams()} * kTeamCounters * sizeof(uint32_t);
  }
  args.parts = reinterpret_cast<float4*>(scratch);
  const int64_t num_parts = static_cast<int64_t>(plan.split > 1 ? args.num_units : plan.num_ctas) * plan.max_parts;
  args.part_sums = reinterpret_cast<PartSum*>(args.parts + num_parts * S::kVectors * kConsumers);
  args.is_cluster = S::kIsTeam ? context.arrivals == nullptr : plan.cluster_size > 1;
  args.arrivals = context.arrivals;
  args.columns = Divisor(kColumns);
  args.members = Divisor(plan.members);
  args.head_tiles = Divisor(num_head_tiles(params));
  args.splits = Divisor(plan.split);
  args.ring_size = Divisor(params.ring.ring_size);
  if (params.entries.data != nullptr) {
    args.ratio = Divisor(params.ratio);
    args.entries_per_page = Divisor(params.entries.entries_per_page);
  }
  switch (params.output) {
    case AttentionOutput::kBf16:
      return launch_kernel<S, AttentionOutput::kBf16>(context, plan, args);
    case AttentionOutput::kFp32:
      return launch_kernel<S, AttentionOutput::kFp32>(context, plan, args);
    case AttentionOutput::kFp8:
      if constexpr (kColumns == 1) return launch_kernel<S, AttentionOutput::kFp8>(context, plan, args);
      break;  // not planned
    case AttentionOutput::kFp4:
      if constexpr (kColumns == 1) return launch_kernel<S, AttentionOutput::kFp4>(context, plan, args);
      break;
  }
}

}  // namespace

void attention(Context& context, const AttentionParams& params) {
  if (params.num_heads < 1) fail_line("attention: num_heads %d, expected at least 1", params.num_heads);
  if (params.window < 1 || params.ring.ring_size < params.window) {
    fail_line("attention: window %d in a ring of %d entries, expected 1 ≤ window ≤ ring", params.window, params.ring.ring_size);
  }
  if (params.entries.data != nullptr && (params.ratio < 1 || params.entries.entries_per_page < 1)) {
    fail_line("attention: ratio %d, %d entries per page, expected at least 1", params.ratio, params.entries.entries_per_page);
  }
  if (params.head_dim != 64 && params.head_dim != 128 && params.head_dim != 256 && params.head_dim != 512) {
    fail_line("attention: head_dim %d, expected 64, 128, 256 or 512", params.head_dim);
  }
  if (params.batch.num_tokens == 0) return;
  const AttentionPlan plan = make_attention_plan(params, context.num_sms, context.arrivals != nullptr);
  switch (params.head_dim) {
    case 64:
      return launch_attention<Shape<64, 1>>(context, params, plan);
    case 128:
      return launch_attention<Shape<128, 2>>(context, params, plan);
    case 256:
      return launch_attention<Shape<256, 4>>(context, params, plan);
    default:
      if (plan.columns == 8) return launch_attention<Shape<512, 1>>(context, params, plan);
      if (plan.columns == 4) return launch_attention<Shape<512, 2>>(context, params, plan);
      if (plan.columns == 2) return launch_attention<Shape<512, 4>>(context, params, plan);
      return launch_attention<Shape<512, 8>>(context, params, plan);
  }
}

}  // namespace dsv4::cuda
