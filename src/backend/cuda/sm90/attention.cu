// Core attention with sink (ops/attention.h) on wgmma, f16 operands and fp32 sums.
//
// Work. A row × 64 heads belongs to a CTA, or to several: some for other columns of the output, or a cluster that shares the keys. Keys
// (window ascending, then entries) come in tiles of 64. Every tile's products start from zero, relative to the tile's own maxima, and are
// added to those of the tiles before it in fp32, with exact factors (fold(), block/attention_output.h). So a row's bits depend on its keys
// alone, not on who computed which tile and which columns: make_plan() chooses what fills the GPU.
//
//   producer warpgroup      entries → registers, FP8 → f16, into 2 tiles of shared memory [64 keys, D]
//   consumer warpgroup 0    S of tile 0 |softmax| P → shared | O += P·V of tile 0 | of tile 1 |  columns 0 … D/2 − 1
//   consumer warpgroup 1    S of tile 1 |softmax| P → shared | O += P·V of tile 0 | of tile 1 |  the other columns
//
// Products. S [64 heads, 64 keys] = Q·Kᵀ, both operands in shared memory. O [64 heads, columns] += P·V, P in registers, 32 columns after
// another: more sums beside O would not fit the registers.
//
// Numbers. P is taken as two f16, high and low: 22 bits. Maxima are rounded up to integers (of logits in powers of two), so that changing
// them is exact; P is up to 2^15, which puts the low term of what matters above the subnormals.
//
// Budget per tile of 64 keys, D = 512: S 32 wgmma m64n64k16 = 1024 cycles, O 2 × 32 = 2048. docs/kernels/attention.md.
#include "backend/cuda/block/attention_output.h"
#include "backend/cuda/block/key_tile.h"
#include "backend/cuda/ops.h"
#include "backend/cuda/ptx/cluster.h"
#include "backend/cuda/ptx/copy.h"
#include "backend/cuda/ptx/exp2.h"
#include "backend/cuda/ptx/grid.h"
#include "backend/cuda/ptx/registers.h"
#include "backend/cuda/ptx/wgmma.h"
#include "backend/cuda/sm90/attention_plan.h"
#include "backend/cuda/sm90/attention_work.h"

namespace dsv4::cuda {
namespace {

constexpr int kStages = 2;  // one per consumer warpgroup
constexpr int kTerms = 2;   // of P
constexpr int kSteps = kTileKeys / 16;
constexpr int kGroupThreads = 128;
constexpr int kConsumers = 2 * kGroupThreads;
constexpr int kThreads = kConsumers + kGroupThreads;
constexpr int kHeadroom = 15;  // P is relative to 2^(maximum − kHeadroom)
constexpr int kConsumerBarrier = 1;
constexpr uint32_t kValueStep = 16 * kSwizzleRowBytes >> 4;  // descriptor units of 16 keys
constexpr float kLog2E = 1.44269504088896340736f;

// Shapes that follow from head_dim and the blocks of 64 columns that a warpgroup has.
template <int kDim, int kGroupBlocks>
struct Shape {
  static constexpr int kBlocks = kDim / kBlockDims;
  static constexpr int kGroups = kBlocks <= 2 ? 1 : 2;  // warpgroups that have columns of O
  static constexpr int kVectors = 8 * kGroupBlocks;     // of four values, of a thread
};

// Registers of threads. Where O and the output leave some, the producers read further ahead.
template <int kGroupBlocks, AttentionOutput kOutput>
struct Registers {
  static constexpr bool kFew = kGroupBlocks == 4 || kOutput == AttentionOutput::kFp8;
  static constexpr int kConsumer = kFew ? 200 : 152;
  static constexpr int kProducer = kFew ? 104 : 200;
  static_assert(kProducer + 2 * kConsumer <= 3 * 168, "more would wait for each other for ever");
  static constexpr int kTilesAhead = kFew ? 1 : 2;
};

// O of a thread: of rows g and g + 8 of its warp's 16 heads. Sums of 32 columns each.
template <int kGroupBlocks>
using Output = float[2 * kGroupBlocks][16];

using Probabilities = uint32_t[kTerms][kSteps][4];  // A of O

// What a consumer warp would hold in registers, if it had them.
struct WarpState {
  Work work;
  Part part;
};

template <int kDim>
struct SharedMemory {
  alignas(kSwizzleAtomBytes) uint8_t q[kDim / kBlockDims][kBlockBytes];
  alignas(kSwizzleAtomBytes) uint8_t keys[kStages][kDim / kBlockDims][kBlockBytes];
  uint4 p[kStages][kTerms * kSteps][kGroupThreads];
  PartSum sums[kStages][kHeadTile];
  alignas(16) float bias[kStages][kTileKeys];  // 0, or −∞ where there is no key
  float sinks[kHeadTile];                      // times log2(e)
  Rotation rotations[kRopeDim / 2];
  WarpState warps[kConsumers / 32];
  uint64_t full[kStages];
  uint64_t empty[kStages];
  uint64_t p_full[kStages];
  uint64_t p_empty[kStages];
};
static_assert(sizeof(SharedMemory<512>) <= 227 * 1024, "the most a CTA may have on Hopper");

// Bit i: whether stage i has been used an odd number of times. The parity with which to wait for its next use, and for the end of the one
// before that (before the first use such a wait returns at once).
using Uses = uint32_t;
__device__ __forceinline__ uint32_t next_parity(Uses uses, int stage) {
  return uses >> stage & 1;
}
__device__ __forceinline__ uint32_t last_parity(Uses uses, int stage) {
  return next_parity(uses, stage) ^ 1;
}

// The producer warpgroup: four threads per key, two keys per thread. kAhead tiles are read ahead of the one that is stored.
template <int kDim, int kAhead>
__device__ __forceinline__ void produce(const Arguments& args, const Work& work, SharedMemory<kDim>& shared, int thread, Uses& uses) {
  constexpr int kRows = kTileKeys / (kGroupThreads / 4);
  const KeySource source = key_source(args, work);
  EntryQuarter<kDim> words[kAhead][kRows];
  int entries[kAhead][kRows];
  const auto key_of = [&](int tile, int row) { return tile * kTileKeys + row * (kGroupThreads / 4) + thread / 4; };
  const auto find = [&](int tile, int slot) {
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      entries[slot][row] = tile < work.tile_end ? find_entry(args, work, source, key_of(tile, row)) : -1;
    }
  };
  const auto load = [&](int tile, int slot) {
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      const EntryPlace place = locate<kDim>(args, work, source, key_of(tile, row), entries[slot][row]);
      load_entry<kDim>(place, thread % 4, words[slot][row]);
    }
  };
  Part part = first_part(args, work, cluster_rank());
  int stage = 0;
#pragma unroll
  for (int slot = 0; slot < kAhead; ++slot) find(work.tile_begin + slot, slot);
#pragma unroll
  for (int slot = 0; slot < kAhead; ++slot) load(work.tile_begin + slot, slot);
#pragma unroll 1
  for (int first = work.tile_begin; first < work.tile_end; first += kAhead) {
#pragma unroll
    for (int slot = 0; slot < kAhead; ++slot) {
      const int tile = first + slot;
      if (tile >= work.tile_end) break;
      ptx::mbarrier_wait(&shared.empty[stage], last_parity(uses, stage));
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        const int key = row * (kGroupThreads / 4) + thread / 4;
        store_entry<kDim>(shared.keys[stage], key, thread % 4, words[slot][row]);
        if (row == 0) find(tile + kAhead, slot);  // now that there are registers for it
        if (thread % 4 == 0) shared.bias[stage][key] = words[slot][row].is_entry() ? 0.0f : __int_as_float(0xff800000);
      }
      ptx::fence_async_proxy();
      ptx::mbarrier_arrive(&shared.full[stage]);
      load(tile + kAhead, slot);  // after the fence, which waits for loads
      uses ^= 1u << stage;
      stage ^= 1;
      if (tile + 1 < part.tile_end) continue;
      part = next_part(args, work, part);
      stage = 0;
    }
  }
}

// What a thread finds out while Q is on its way: the rotation of its pair of dims (of the first kRopeDim/2 threads), its head's sink.
struct RowConstants {
  Rotation rotation;
  float sink;  // times log2(e)
};

// Q [64, kDim] into shared memory as f16; heads beyond the model's are zeros.
template <int kDim>
__device__ __forceinline__ RowConstants load_queries(const AttentionParams& params, const OutputHeads& heads, int position,
                                                     SharedMemory<kDim>& shared, int thread) {
  constexpr int kBlocks = kDim / kBlockDims;  // a warp has eight heads × 64 dims at a time, one set of heads or another per block
  const int head = thread / 32 * 8 + thread % 32 / 4, dims = thread % 4;
  const bool is_head = head < heads.num_heads;
  const Bf16* q = params.q + (static_cast<int64_t>(heads.row) * params.num_heads + heads.head_begin + head) * kDim + dims * 16;
  uint4 chunks[kBlocks][2];
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) {
    const uint8_t* place = reinterpret_cast<const uint8_t*>(q + block * kBlockDims);
    chunks[block][0] = load_or_zero(place, is_head);
    chunks[block][1] = load_or_zero(place + 16, is_head);
  }
  RowConstants constants{};
  if (thread < heads.num_heads) constants.sink = params.sink[heads.head_begin + thread] * kLog2E;
  if (thread < kRopeDim / 2) constants.rotation = rope_rotation(position, params.freqs[thread]);
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) {
    store_dims(shared.q[block], head, dims, permuted_f16(chunks[block][0], chunks[block][1]));
  }
  return constants;
}

template <int kCount>
__device__ __forceinline__ void fence_operands(float (&values)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) ptx::wgmma_fence_operand(values[i]);
}
__device__ __forceinline__ void fence_operands(Probabilities& p) {
#pragma unroll
  for (int i = 0; i < kTerms * kSteps * 4; ++i) ptx::wgmma_fence_operand(p[i / (kSteps * 4)][i / 4 % kSteps][i % 4]);
}

// s [64 heads, 64 keys] = Q·Kᵀ of a tile, not scaled.
template <int kDim>
__device__ __forceinline__ void multiply_keys(SharedMemory<kDim>& shared, int stage, float (&s)[kTileKeys / 2]) {
  const uint64_t q = swizzled_descriptor(ptx::shared_address(shared.q)), k = swizzled_descriptor(ptx::shared_address(shared.keys[stage]));
  fence_operands(s);
  ptx::wgmma_fence();
#pragma unroll
  for (int block = 0; block < kDim / kBlockDims; ++block) {
#pragma unroll
    for (int step = 0; step < kBlockDims / 16; ++step) {
      const uint64_t offset = (block * kBlockBytes + step * 32) >> 4;
      ptx::wgmma_f16_ss<kTileKeys>(s, q + offset, k + offset, block > 0 || step > 0);
    }
  }
  ptx::wgmma_commit_group();
  ptx::wgmma_wait_group<0>();
  fence_operands(s);
}

// A value of all lanes of a quad.
template <class Combine>
__device__ __forceinline__ float combine_quad(float value, const Combine& combine) {
  value = combine(value, __shfl_xor_sync(0xffffffffu, value, 1));
  return combine(value, __shfl_xor_sync(0xffffffffu, value, 2));
}

// Logits → probabilities relative to the tile's own maxima, as f16 terms, and their sums of heads g and g + 8.
template <int kDim>
__device__ __forceinline__ void weigh_keys(const SharedMemory<kDim>& shared, int stage, float scale, float (&s)[kTileKeys / 2],
                                           Probabilities& p, PartSum (&sums)[2]) {
  const float2* bias = reinterpret_cast<const float2*>(shared.bias[stage]) + threadIdx.x % 4;
  float largest[2] = {__int_as_float(0xff800000), __int_as_float(0xff800000)};
#pragma unroll
  for (int j = 0; j < kTileKeys / 8; ++j) {
    const float2 pair = bias[4 * j];
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      float* logits = s + 4 * j + 2 * row;
      logits[0] = fmaf(logits[0], scale, pair.x);
      logits[1] = fmaf(logits[1], scale, pair.y);
      largest[row] = fmaxf(largest[row], fmaxf(logits[0], logits[1]));
    }
  }
  float references[2], totals[2] = {0.0f, 0.0f};
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    const float maximum = combine_quad(largest[row], [](float a, float b) { return fmaxf(a, b); });
    sums[row].maximum = max(__float2int_ru(maximum), kNoMaximum + kHeadroom) - kHeadroom;
    references[row] = static_cast<float>(sums[row].maximum);
  }
#pragma unroll
  for (int j = 0; j < kTileKeys / 8; ++j) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const float even = ptx::exp2_approx(s[4 * j + 2 * row] - references[row]);
      const float odd = ptx::exp2_approx(s[4 * j + 2 * row + 1] - references[row]);
      totals[row] += even + odd;
      const uint32_t high = ptx::convert_f16x2(odd, even);
      float odd_high, even_high;
      ptx::widen_f16x2(high, odd_high, even_high);
      p[0][j / 2][row + j % 2 * 2] = high;
      p[1][j / 2][row + j % 2 * 2] = ptx::convert_f16x2(odd - odd_high, even - even_high);
    }
  }
#pragma unroll
  for (int row = 0; row < 2; ++row) sums[row].total = combine_quad(totals[row], [](float a, float b) { return a + b; });
}

// The head of row g of a thread's fragments; the other is eight further.
__device__ __forceinline__ int first_head(int thread) {
  return thread / 32 % 4 * 16 + thread % 32 / 4;
}

// P and the sums of a tile, for both warpgroups.
template <int kDim>
__device__ __forceinline__ void prepare_tile(SharedMemory<kDim>& shared, int thread, int stage, Uses uses, float logit_scale) {
  ptx::mbarrier_wait(&shared.full[stage], next_parity(uses, stage));
  float s[kTileKeys / 2];
  multiply_keys<kDim>(shared, stage, s);
  Probabilities p;
  PartSum sums[2];
  weigh_keys<kDim>(shared, stage, logit_scale, s, p, sums);
  ptx::mbarrier_wait(&shared.p_empty[stage], last_parity(uses, stage));
#pragma unroll
  for (int i = 0; i < kTerms * kSteps; ++i) {
    const uint32_t(&words)[4] = p[i / kSteps][i % kSteps];
    shared.p[stage][i][thread % kGroupThreads] = make_uint4(words[0], words[1], words[2], words[3]);
  }
  if (thread % 4 < 2) shared.sums[stage][first_head(thread) + thread % 4 * 8] = thread % 4 == 0 ? sums[0] : sums[1];
  ptx::mbarrier_arrive(&shared.p_full[stage]);
}

// sum ← P·V of 32 columns of a tile, not waited for. `values`: descriptor of the columns.
__device__ __forceinline__ void multiply_values(uint64_t values, const Probabilities& p, float (&sum)[16]) {
  fence_operands(sum);
  ptx::wgmma_fence();
#pragma unroll
  for (int term = kTerms - 1; term >= 0; --term) {  // the smaller first: sums are truncated
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      ptx::wgmma_f16_rs<32, true>(sum, p[term][step], values + step * kValueStep, term < kTerms - 1 || step > 0);
    }
  }
  ptx::wgmma_commit_group();
}

// The first block of a warpgroup's columns.
template <int kDim, int kGroupBlocks>
__device__ __forceinline__ int first_block(const Work& work, int thread) {
  return (work.column * Shape<kDim, kGroupBlocks>::kGroups + thread / kGroupThreads) * kGroupBlocks;
}

// Whether a thread's warpgroup has columns.
template <int kDim, int kGroupBlocks>
__device__ __forceinline__ bool has_columns(int thread) {
  return Shape<kDim, kGroupBlocks>::kGroups == 2 || thread < kGroupThreads;
}

// o += P·V of a tile for the warpgroup's columns, and the row's sums += the tile's.
template <int kDim, int kGroupBlocks>
__device__ __forceinline__ void add_tile(SharedMemory<kDim>& shared, int thread, int stage, int block, PartSum (&row_sums)[2],
                                         Output<kGroupBlocks>& o) {
  constexpr int kParts = 2 * kGroupBlocks;  // of 32 columns
  Probabilities p;
#pragma unroll
  for (int i = 0; i < kTerms * kSteps; ++i) {
    const uint4 words = shared.p[stage][i][thread % kGroupThreads];
    p[i / kSteps][i % kSteps][0] = words.x;
    p[i / kSteps][i % kSteps][1] = words.y;
    p[i / kSteps][i % kSteps][2] = words.z;
    p[i / kSteps][i % kSteps][3] = words.w;
  }
  float gains[2];
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    const FoldFactors factors = fold(row_sums[row], shared.sums[stage][first_head(thread) + 8 * row]);
    gains[row] = factors.gain;
    if (!__any_sync(0xffffffffu, factors.keep != 1.0f)) continue;
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        o[i][4 * k + 2 * row] = __fmul_rn(o[i][4 * k + 2 * row], factors.keep);
        o[i][4 * k + 2 * row + 1] = __fmul_rn(o[i][4 * k + 2 * row + 1], factors.keep);
      }
    }
  }
  const uint64_t values = swizzled_descriptor(ptx::shared_address(shared.keys[stage][0]) + block * kBlockBytes);
  const auto columns = [&](int i) { return values + (((i / 2) * kBlockBytes + i % 2 * (kSwizzleRowBytes / 2)) >> 4); };
  float sum[16];
  fence_operands(p);
#pragma unroll
  for (int i = 0; i < kParts; ++i) {
    multiply_values(columns(i), p, sum);
    ptx::wgmma_wait_group<0>();
    fence_operands(sum);
#pragma unroll
    for (int k = 0; k < 16; ++k) o[i][k] = __fmaf_rn(sum[k], gains[k / 2 % 2], o[i][k]);
  }
  fence_operands(p);
}

template <int kGroupBlocks>
__device__ __forceinline__ void clear(Output<kGroupBlocks>& o) {
#pragma unroll
  for (int i = 0; i < 2 * kGroupBlocks; ++i) {
#pragma unroll
    for (int k = 0; k < 16; ++k) o[i][k] = 0.0f;
  }
}

// o and the row's sums += a part's tiles.
template <int kDim, int kGroupBlocks>
__device__ __forceinline__ void sum_tiles(const Arguments& args, SharedMemory<kDim>& shared, int thread, int num_tiles, Uses& uses,
                                          PartSum (&row_sums)[2], Output<kGroupBlocks>& o) {
#pragma unroll 1
  for (int tile = 0; tile < num_tiles; tile += 2) {
    thread = ptx::computed_here(thread);
    const int group = thread / kGroupThreads, last_stage = tile + 1 < num_tiles ? 1 : 0;
    if (group <= last_stage) prepare_tile<kDim>(shared, thread, group, uses, args.logit_scale);
#pragma unroll 1
    for (int stage = 0; stage <= last_stage; ++stage) {
      if (stage != group) {
        ptx::mbarrier_wait(&shared.p_full[stage], next_parity(uses, stage));
        ptx::mbarrier_wait(&shared.full[stage], next_parity(uses, stage));
      } else {
        __syncwarp();  // the sums of the warp's heads
      }
      if (has_columns<kDim, kGroupBlocks>(thread)) {
        const int block = first_block<kDim, kGroupBlocks>(shared.warps[thread / 32].work, thread);
        add_tile<kDim, kGroupBlocks>(shared, thread, stage, block, row_sums, o);
      }
      if (stage != group) ptx::mbarrier_arrive(&shared.p_empty[stage]);
      ptx::mbarrier_arrive(&shared.empty[stage]);
    }
    uses ^= 1 + 2 * last_stage;
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
template <int kDim, int kGroupBlocks>
__device__ __forceinline__ void hand_over(const Arguments& args, const Work& work, const Part& part, int thread, PartSum (&row_sums)[2],
                                          Output<kGroupBlocks>& o) {
  constexpr int kVectors = Shape<kDim, kGroupBlocks>::kVectors;
  const int64_t index = first_part_index(args, work) + part.index;
  float4* place = args.parts + index * kVectors * kConsumers;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const float* values = o[v / 4] + v % 4 * 4;
    __stcg(place + part_place(thread, v), make_float4(values[0], values[1], values[2], values[3]));
  }
  int2* sums = reinterpret_cast<int2*>(args.part_sums) + index * kConsumers * 2 + thread;
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    __stcg(sums + row * kConsumers, make_int2(row_sums[row].maximum, __float_as_int(row_sums[row].total)));
    row_sums[row] = PartSum{};
  }
  clear<kGroupBlocks>(o);
}

// Whether a CTA sums up a row in its registers.
__device__ __forceinline__ bool is_alone(const Arguments& args, const Work& work) {
  return args.split == 1 && work.num_groups == 1;
}

// The consumers' work on the CTA's tiles of a row: into scratch memory, or, of a short row that is not shared, o and row_sums.
template <int kDim, int kGroupBlocks>
__device__ __forceinline__ void consume(const Arguments& args, SharedMemory<kDim>& shared, int thread, Uses& uses, PartSum (&row_sums)[2],
                                        Output<kGroupBlocks>& o) {
  clear<kGroupBlocks>(o);
  row_sums[0] = row_sums[1] = PartSum{};
#pragma unroll 1
  for (int tile = shared.warps[thread / 32].work.tile_begin;;) {
    WarpState& state = shared.warps[ptx::computed_here(thread) / 32];
    const int end = min(state.part.tile_end, state.work.tile_end);
    if (tile >= end) break;
    sum_tiles<kDim, kGroupBlocks>(args, shared, thread, end - tile, uses, row_sums, o);
    tile = end;
    WarpState& after = shared.warps[ptx::computed_here(thread) / 32];
    if (is_alone(args, after.work)) break;
    hand_over<kDim, kGroupBlocks>(args, after.work, after.part, ptx::computed_here(thread), row_sums, o);
    __syncwarp();
    if (ptx::computed_here(thread) % 32 == 0) after.part = next_part(args, after.work, after.part);
    __syncwarp();
  }
}

// Weight of one of a thread's two heads; `leads`: it writes its LSE.
template <int kDim>
__device__ __forceinline__ HeadSums normalise_head(const AttentionParams& params, const OutputHeads& heads,
                                                   const SharedMemory<kDim>& shared, int head, bool leads, const PartSum& row_sum) {
  const HeadSums sums = normalise(row_sum, shared.sinks[head]);
  if (params.lse != nullptr && leads && head < heads.num_heads) {
    params.lse[static_cast<int64_t>(heads.row) * params.num_heads + heads.head_begin + head] = sums.lse;
  }
  return sums;
}

// Weights of both; `leads`: the quad writes their LSE.
template <int kDim>
__device__ __forceinline__ void normalise_heads(const AttentionParams& params, const OutputHeads& heads, const SharedMemory<kDim>& shared,
                                                int thread, bool leads, const PartSum (&row_sums)[2], HeadSums (&sums)[2]) {
  const int head = first_head(thread);
  sums[0] = normalise_head<kDim>(params, heads, shared, head, leads && thread % 4 == 0, row_sums[0]);
  sums[1] = normalise_head<kDim>(params, heads, shared, head + 8, leads && thread % 4 == 1, row_sums[1]);
}

// Stores what shares a scale, of both heads of the thread, from dim `dim` on. o[2v], o[2v + 1]: the sums of vector v, as O has them.
template <int kDim, AttentionOutput kOutput>
__device__ __forceinline__ void emit_vectors(const AttentionParams& params, const OutputHeads& heads, const SharedMemory<kDim>& shared,
                                             int thread, int dim, const HeadSums (&sums)[2],
                                             const float (&o)[2 * kOutputVectors<kDim, kOutput>][4]) {
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
    store_output<kDim, kOutput>(params, static_cast<int64_t>(heads.row) * params.num_heads + heads.head_begin + head, dim + thread % 4 * 4,
                                head < heads.num_heads, sums[row].has_keys, shared.rotations, values);
  }
}

// The output of a row that one CTA has summed up in registers.
template <int kDim, int kGroupBlocks, AttentionOutput kOutput>
__device__ __forceinline__ void emit_row(const Arguments& args, const Work& work, SharedMemory<kDim>& shared, int thread,
                                         const PartSum (&row_sums)[2], const Output<kGroupBlocks>& o) {
  constexpr int kVectors = kOutputVectors<kDim, kOutput>;  // of dims: two of O
  if (!has_columns<kDim, kGroupBlocks>(thread)) return;
  const int first_dim = first_block<kDim, kGroupBlocks>(work, thread) * kBlockDims;
  HeadSums sums[2];
  normalise_heads<kDim>(args.params, work.heads, shared, thread, thread < kGroupThreads && work.column == 0, row_sums, sums);
#pragma unroll
  for (int first = 0; first < Shape<kDim, kGroupBlocks>::kVectors; first += 2 * kVectors) {
    float values[2 * kVectors][4];
#pragma unroll
    for (int v = 0; v < 2 * kVectors; ++v) {
#pragma unroll
      for (int i = 0; i < 4; ++i) values[v][i] = o[(first + v) / 4][(first + v) % 4 * 4 + i];
    }
    emit_vectors<kDim, kOutput>(args.params, work.heads, shared, thread, first_dim + first * 8, sums, values);
  }
}

// The output of a row whose parts are in scratch memory: of the CTAs that share it each adds up every split-th share.
template <int kDim, int kGroupBlocks, AttentionOutput kOutput>
__device__ __forceinline__ void emit_shares(const Arguments& args, const Work& work, SharedMemory<kDim>& shared, int thread) {
  constexpr int kVectors = 2 * kOutputVectors<kDim, kOutput>;
  constexpr int kAtOnce = kVectors <= 2 ? 5 : kVectors <= 4 ? 3 : 1;
  constexpr int kPartVectors = Shape<kDim, kGroupBlocks>::kVectors * kConsumers;
  if (!has_columns<kDim, kGroupBlocks>(thread)) return;
  const PartMap map = part_map(args, work);
  const int64_t first_index = first_part_index(args, work);
#pragma unroll 1
  for (int first = cluster_rank() * kVectors; first < Shape<kDim, kGroupBlocks>::kVectors; first += args.split * kVectors) {
    const float4* place = args.parts + first_index * kPartVectors + part_place(thread, first);
    const int2* part_sums = reinterpret_cast<const int2*>(args.part_sums) + first_index * kConsumers * 2 + thread;
    PartSum group_sums[2], row_sums[2];
    float4 in_group[kVectors], in_row[kVectors];
#pragma unroll
    for (int v = 0; v < kVectors; ++v) in_group[v] = in_row[v] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 1
    for (int begin = 0; begin < map.num_parts; begin += kAtOnce) {
      float4 parts[kAtOnce][kVectors];
      int2 sums[kAtOnce][2];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const int64_t part = min(begin + k, map.num_parts - 1);
#pragma unroll
        for (int v = 0; v < kVectors; ++v) parts[k][v] = __ldcg(place + part * kPartVectors + part_place(0, v));
        sums[k][0] = __ldcg(part_sums + part * kConsumers * 2);
        sums[k][1] = __ldcg(part_sums + part * kConsumers * 2 + kConsumers);
      }
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        if (begin + k >= map.num_parts) break;
        FoldFactors factors[2];
#pragma unroll
        for (int row = 0; row < 2; ++row) factors[row] = fold(group_sums[row], PartSum{sums[k][row].x, __int_as_float(sums[k][row].y)});
#pragma unroll
        for (int v = 0; v < kVectors; ++v) fold_vectors(factors, parts[k][v], in_group[v]);
        if (!ends_group(work, map, begin + k)) continue;
#pragma unroll
        for (int row = 0; row < 2; ++row) {
          factors[row] = fold(row_sums[row], group_sums[row]);
          group_sums[row] = PartSum{};
        }
#pragma unroll
        for (int v = 0; v < kVectors; ++v) {
          fold_vectors(factors, in_group[v], in_row[v]);
          in_group[v] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
      }
    }
    thread = ptx::computed_here(thread);
    const int first_dim = first_block<kDim, kGroupBlocks>(work, thread) * kBlockDims;
    HeadSums sums[2];
    normalise_heads<kDim>(args.params, work.heads, shared, thread, thread < kGroupThreads && work.column == 0 && first == 0, row_sums,
                          sums);
    float values[kVectors][4];
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      values[v][0] = in_row[v].x;
      values[v][1] = in_row[v].y;
      values[v][2] = in_row[v].z;
      values[v][3] = in_row[v].w;
    }
    emit_vectors<kDim, kOutput>(args.params, work.heads, shared, thread, first_dim + first * 8, sums, values);
  }
}

// What the consumers keep in shared memory about a row.
template <int kDim>
__device__ __forceinline__ void begin_row(const Arguments& args, const Work& work, const RowConstants& constants,
                                          SharedMemory<kDim>& shared, int thread) {
  if (thread < kHeadTile) shared.sinks[thread] = constants.sink;
  if (thread % 32 == 0) shared.warps[thread / 32] = {work, first_part(args, work, cluster_rank())};
  if (thread < kRopeDim / 2) shared.rotations[thread] = constants.rotation;
}

// From the 168 that every thread begins with.
template <int kRegisters>
__device__ __forceinline__ void set_registers() {
  if constexpr (kRegisters > 168) {
    ptx::increase_registers<kRegisters>();
  } else {
    ptx::decrease_registers<kRegisters>();
  }
}

template <int kDim, int kGroupBlocks, AttentionOutput kOutput>
__global__ void __launch_bounds__(kThreads, 1) attention_kernel(const __grid_constant__ Arguments args) {
  extern __shared__ __align__(kSwizzleAtomBytes) uint8_t memory[];
  SharedMemory<kDim>& shared = *reinterpret_cast<SharedMemory<kDim>*>(memory);
  const int thread = threadIdx.x;
  if (thread == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      ptx::mbarrier_init(&shared.full[stage], kGroupThreads);
      ptx::mbarrier_init(&shared.empty[stage], kConsumers);
      ptx::mbarrier_init(&shared.p_full[stage], kGroupThreads);
      ptx::mbarrier_init(&shared.p_empty[stage], kGroupThreads);
    }
    ptx::fence_barrier_init();
  }
  __syncthreads();
  ptx::grid_dependency_wait();
  ptx::grid_launch_dependents();

  Uses uses = 0;
  if (thread >= kConsumers) {
    set_registers<Registers<kGroupBlocks, kOutput>::kProducer>();
#pragma unroll 1
    for (int unit = cluster_index(); unit < args.num_units; unit += num_clusters()) {
      Work work;
      if (find_work(args, unit, cluster_rank(), work))
        produce<kDim, Registers<kGroupBlocks, kOutput>::kTilesAhead>(args, work, shared, thread - kConsumers, uses);
    }
  } else {
    set_registers<Registers<kGroupBlocks, kOutput>::kConsumer>();
#pragma unroll 1
    for (int unit = cluster_index(); unit < args.num_units; unit += num_clusters()) {
      Work work;
      if (!find_work(args, unit, cluster_rank(), work)) {
        if (cluster_rank() == 0 && work.column == 0) write_padding(args.params, work.heads, thread, kConsumers);
        continue;
      }
      // Q may be overwritten: a warpgroup that has added the last tile has seen both warpgroups' P, and so the end of their products with
      // Q.
      const RowConstants constants = load_queries<kDim>(args.params, work.heads, work.position, shared, ptx::computed_here(thread));
      ptx::fence_async_proxy();
      ptx::named_barrier_sync(kConsumerBarrier, kConsumers);  // Q is there; the row before has been stored
      begin_row<kDim>(args, work, constants, shared, ptx::computed_here(thread));
      ptx::named_barrier_sync(kConsumerBarrier, kConsumers);
      PartSum row_sums[2];
      Output<kGroupBlocks> o;
      consume<kDim, kGroupBlocks>(args, shared, thread, uses, row_sums, o);
      const WarpState& state = shared.warps[ptx::computed_here(thread) / 32];
      if (is_alone(args, state.work)) {
        emit_row<kDim, kGroupBlocks, kOutput>(args, state.work, shared, ptx::computed_here(thread), row_sums, o);
      } else {
        if (args.split > 1) ptx::cluster_sync();  // the parts are there
        emit_shares<kDim, kGroupBlocks, kOutput>(args, state.work, shared, ptx::computed_here(thread));
      }
      unit = state.work.unit;
    }
  }
}

template <int kDim, int kGroupBlocks>
void launch_attention(Context& context, const AttentionParams& params, const AttentionPlan& plan) {
  using S = Shape<kDim, kGroupBlocks>;
  constexpr int kColumns = S::kBlocks / S::kGroups / kGroupBlocks;  // sets of columns
  Arguments args{};
  args.params = params;
  args.ring_page_bytes = KvEntryLayout{kDim}.page_bytes(params.ring.ring_size);
  args.entry_page_bytes = params.entries.data == nullptr ? 0 : KvEntryLayout{kDim}.page_bytes(params.entries.entries_per_page);
  args.logit_scale = params.softmax_scale * kLog2E;
  const int num_head_tiles = (params.num_heads + kHeadTile - 1) / kHeadTile;
  args.num_units = params.batch.num_tokens * num_head_tiles * kColumns;
  args.split = plan.split;
  args.shares_short = plan.shares_short;
  args.max_parts = plan.max_parts;
  args.parts = static_cast<float4*>(params.scratch);
  const int64_t num_parts = static_cast<int64_t>(plan.num_clusters) * plan.max_parts;
  args.part_sums = reinterpret_cast<PartSum*>(args.parts + num_parts * S::kVectors * kConsumers);
  args.columns = Divisor(kColumns);
  args.head_tiles = Divisor(num_head_tiles);
  args.splits = Divisor(plan.split);
  args.ring_size = Divisor(params.ring.ring_size);
  if (params.entries.data != nullptr) {
    args.ratio = Divisor(params.ratio);
    args.entries_per_page = Divisor(params.entries.entries_per_page);
  }
  LaunchConfig config;
  config.grid = dim3(static_cast<unsigned>(plan.num_clusters * plan.split));
  config.block = dim3(kThreads);
  config.shared_bytes = sizeof(SharedMemory<kDim>);
  config.cluster_size = plan.split;
  switch (params.output) {
    case AttentionOutput::kBf16:
      return launch(context, "attention", attention_kernel<kDim, kGroupBlocks, AttentionOutput::kBf16>, config, args);
    case AttentionOutput::kFp32:
      return launch(context, "attention", attention_kernel<kDim, kGroupBlocks, AttentionOutput::kFp32>, config, args);
    case AttentionOutput::kFp8:
      if constexpr (kColumns == 1) {
        return launch(context, "attention", attention_kernel<kDim, kGroupBlocks, AttentionOutput::kFp8>, config, args);
      }
      return;  // not planned
    case AttentionOutput::kFp4:
      return launch(context, "attention", attention_kernel<kDim, kGroupBlocks, AttentionOutput::kFp4>, config, args);
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
  const AttentionPlan plan = make_attention_plan(params, context.num_sms);
  switch (params.head_dim) {
    case 64:
      return launch_attention<64, 1>(context, params, plan);
    case 128:
      return launch_attention<128, 2>(context, params, plan);
    case 256:
      if (plan.columns == 2) return launch_attention<256, 1>(context, params, plan);
      return launch_attention<256, 2>(context, params, plan);
    default:
      if (plan.columns == 4) return launch_attention<512, 1>(context, params, plan);
      if (plan.columns == 2) return launch_attention<512, 2>(context, params, plan);
      return launch_attention<512, 4>(context, params, plan);
  }
}

}  // namespace dsv4::cuda
