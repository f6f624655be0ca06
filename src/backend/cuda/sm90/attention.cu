// Core attention with sink (ops/attention.h) on wgmma, bf16 operands and fp32 sums.
//
// Work. A cluster is one row × one tile of 64 heads (fewer are padded with zeros). A row whose sequence has at most 8 rows in the step
// (decode, drafts) splits its tiles of 64 keys over 8 CTAs in contiguous runs; a row of a longer run (prefill) has one CTA. That is the
// row's own shape, so its result does not depend on the batch. A launch has one cluster size: a mixed step is two launches, each of which
// returns at once from the rows of the other.
//
//   keys (window ascending, then entries)  | tile 0 | tile 1 | tile 2 | …      gathered FP8 → bf16 [64 keys, D] in shared memory, 2 stages
//   Q [64 heads, D] bf16, loaded once      | S = Q·Kᵀ, online softmax, O += P·K |   the same tile is K (K-major) and V (N-major)
//
// Threads. One producer warpgroup gathers and dequantises: 4 lanes per key, 16 bytes of FP8 per lane and block of 64 dims. One consumer
// warpgroup per 256 dims of O (two for D = 512, else one): each computes all of S [64, 64] and its own dims of O, so that probabilities
// go from the accumulators of S straight into the A fragments of the value product, and consumers never wait for each other in the loop.
// Probabilities are split into two bf16 parts (16 bits; the contract wants more than bf16), each of which has its own product.
//
// End. Every CTA leaves O (fp32, relative to its own maximum), maxima and sums in its shared memory; then each CTA of the cluster finishes
// every 8th head: adds the parts in the order of the ranks, divides, rounds, rotates back, rounds, stores.
//
// Budget per tile of 64 keys, D = 512: S 2 × 32 wgmma m64n64k16 = 2048 cycles (half of it repeated work), P·K 2 × 8 m64n256k16 = 2048
// cycles; the gather is 36 KiB and about 1000 issue slots per scheduler, under them. docs/kernels/attention.md has the rest.
#include "backend/cuda/block/quantize.h"
#include "backend/cuda/block/reduce.h"
#include "backend/cuda/block/rope.h"
#include "backend/cuda/block/swizzle.h"
#include "backend/cuda/ops.h"
#include "backend/cuda/ptx/cluster.h"
#include "backend/cuda/ptx/copy.h"
#include "backend/cuda/ptx/grid.h"
#include "backend/cuda/ptx/registers.h"
#include "backend/cuda/ptx/wgmma.h"

namespace dsv4::cuda {
namespace {

constexpr int kHeadTile = 64;
constexpr int kKeyTile = 64;
constexpr int kStages = 2;
constexpr int kGroupThreads = 128;
constexpr int kSplitCtas = 8;                             // CTAs that share the keys of a row…
constexpr int kMaxSplitRows = 8;                          // …whose sequence has at most so many rows in the step
constexpr int kBlockBytes = kKeyTile * kSwizzleRowBytes;  // 64 rows × 64 dims in bf16: a column block of a tile
constexpr int kLanesPerKey = 4;
constexpr int kKeysPerWarp = kKeyTile / 4;      // of the four producer warps
constexpr int kKeysAtOnce = 32 / kLanesPerKey;  // by one warp
constexpr int kPasses = kKeysPerWarp / kKeysAtOnce;
constexpr int kConsumerBarrier = 1;
// Registers per thread of two consumer warpgroups and the producer: 504 in all, what a launch of 384 threads has.
constexpr int kConsumerRegisters = 200;
constexpr int kProducerRegisters = 104;
constexpr float kLog2E = 1.44269504088896340736f;
static_assert(kHeadTile == kKeyTile, "Q and key tiles share the block size");

__device__ __forceinline__ float minus_infinity() {
  return __int_as_float(0xff800000);
}

// Shapes that follow from head_dim.
template <int kDim>
struct Shape {
  static constexpr KvEntryLayout kLayout{kDim};
  static constexpr int kBlocks = kDim / kKvBlock;       // column blocks; the last one holds the rotated dims
  static constexpr int kScaled = kLayout.num_scales();  // blocks in FP8
  static constexpr int kGroupDims = kDim < 256 ? kDim : 256;
  static constexpr int kGroups = kDim / kGroupDims;  // consumer warpgroups
  static constexpr int kConsumers = kGroups * kGroupThreads;
  static constexpr int kThreads = kConsumers + kGroupThreads;
  static constexpr int kTileBytes = kBlocks * kBlockBytes;
};

template <int kDim>
struct SharedMemory {
  alignas(kSwizzleAtomBytes) uint8_t q[Shape<kDim>::kTileBytes];
  alignas(kSwizzleAtomBytes) uint8_t keys[kStages][Shape<kDim>::kTileBytes];  // at the end: O [64, kDim] fp32
  float bias[kStages][kKeyTile];                                              // 0, or −∞ where there is no key
  float row_max[kHeadTile];                                                   // of the logits·log2(e); −∞ without keys
  float row_sum[kHeadTile];
  Rotation rotations[kRopeDim / 2];
  uint64_t full[kStages];   // keys and bias of a stage are there
  uint64_t empty[kStages];  // they have been used
};
static_assert(kStages * sizeof(uint16_t) == sizeof(float), "O in fp32 takes the place of the two key stages");
static_assert(sizeof(SharedMemory<512>) <= 227 * 1024, "the most a CTA may have on Hopper");

struct Arguments {
  AttentionParams params;
  size_t ring_page_bytes;
  size_t entry_page_bytes;
  float logit_scale;  // softmax_scale·log2(e): exponentials are powers of two
  int num_head_tiles;
  int min_rows, max_rows;  // this launch computes rows whose sequence has so many rows in the step
};

// What a CTA works on; the same in all its threads.
struct Work {
  int row;
  int head_begin, num_heads;
  int rank, num_ranks;
  int position;
  int first_position;  // of the window
  int num_window, num_keys;
  int tile_begin, tile_end;
  const uint8_t* ring;        // the slot's page
  const int32_t* page_table;  // of the sequence
};

// A load that the compiler leaves where it is: loads that do not wait for each other's values are then under way together.
__device__ __forceinline__ int load_here(const int32_t* address) {
  return *static_cast<const volatile int32_t*>(address);
}

// False: the row belongs to the other launch.
__device__ __forceinline__ bool find_keys(const Arguments& args, int seq_idx, Work& work) {
  const AttentionParams& params = args.params;
  const BatchView& batch = params.batch;
  const int row_begin = load_here(batch.row_begin + seq_idx);
  const int row_end = load_here(batch.row_begin + seq_idx + 1);
  const int slot = load_here(batch.slots + seq_idx);
  const int num_rows = row_end - row_begin;
  if (num_rows < args.min_rows || num_rows > args.max_rows) return false;
  work.first_position = max(work.position - params.window + 1, 0);
  work.num_window = work.position - work.first_position + 1;
  work.num_keys = work.num_window;
  if (params.entries.data != nullptr) {
    const int num_visible = num_visible_entries(work.position, params.ratio);
    work.num_keys += params.selected == nullptr ? num_visible : min(num_visible, params.num_selected);
  }
  const int num_tiles = (work.num_keys + kKeyTile - 1) / kKeyTile;
  work.tile_begin = num_tiles * work.rank / work.num_ranks;
  work.tile_end = num_tiles * (work.rank + 1) / work.num_ranks;
  work.ring = params.ring.data + static_cast<size_t>(slot) * args.ring_page_bytes;
  work.page_table = batch.page_table + static_cast<int64_t>(seq_idx) * batch.page_table_stride;
  return true;
}

struct EntryAddress {
  const uint8_t* values;  // nullptr: no key here
  const uint8_t* scales;
};

template <int kDim>
__device__ __forceinline__ EntryAddress entry_of_page(const uint8_t* page, int num_entries, int entry_idx) {
  constexpr KvEntryLayout kLayout = Shape<kDim>::kLayout;
  return {page + kLayout.value_offset(entry_idx), page + kLayout.scale_offset(entry_idx, num_entries)};
}

// Index of a key in its cache: the place in the ring or the entry of the sequence; −1: none.
__device__ __forceinline__ int find_entry(const AttentionParams& params, const Work& work, int key) {
  if (key >= work.num_keys) return -1;
  if (key < work.num_window) return (work.first_position + key) % params.ring.ring_size;
  const int i = key - work.num_window;
  return params.selected == nullptr ? i : params.selected[static_cast<int64_t>(work.row) * params.num_selected + i];
}

template <int kDim>
__device__ __forceinline__ EntryAddress locate(const Arguments& args, const Work& work, int key, int entry) {
  if (entry < 0) return {nullptr, nullptr};
  const AttentionParams& params = args.params;
  if (key < work.num_window) return entry_of_page<kDim>(work.ring, params.ring.ring_size, entry);
  const int entries_per_page = params.entries.entries_per_page;
  const int page_idx = entry / entries_per_page;
  const uint8_t* page = params.entries.data + static_cast<size_t>(work.page_table[page_idx]) * args.entry_page_bytes;
  return entry_of_page<kDim>(page, entries_per_page, entry - page_idx * entries_per_page);
}

// One lane's quarter of an entry as stored: 16 codes of every FP8 block, 16 rotated dims.
template <int kDim>
struct EntryQuarter {
  static constexpr int kScaled = Shape<kDim>::kScaled;
  uint4 codes[kScaled > 0 ? kScaled : 1];
  uint4 rope[2];
  uint32_t scales[2];
};

// Zeros where there is no key: they become zeros in any format.
template <int kDim>
__device__ __forceinline__ void load_quarter(const EntryAddress& address, int quarter, EntryQuarter<kDim>& entry) {
  constexpr int kScaled = Shape<kDim>::kScaled;
  entry = EntryQuarter<kDim>{};
  if (address.values == nullptr) return;
  const uint4* values = reinterpret_cast<const uint4*>(address.values);
#pragma unroll
  for (int block = 0; block < kScaled; ++block) entry.codes[block] = values[block * (kKvBlock / 16) + quarter];
  const uint4* rope = values + kScaled * (kKvBlock / 16) + quarter * 2;
  entry.rope[0] = rope[0];
  entry.rope[1] = rope[1];
  if constexpr (kScaled > 4) {
    const uint2 scales = *reinterpret_cast<const uint2*>(address.scales);
    entry.scales[0] = scales.x;
    entry.scales[1] = scales.y;
  } else if constexpr (kScaled > 0) {
    entry.scales[0] = *reinterpret_cast<const uint32_t*>(address.scales);
  }
}

__device__ __forceinline__ void store_chunk(uint8_t* block, int row, int chunk, const uint4& value) {
  *reinterpret_cast<uint4*>(block + swizzled_offset(row, chunk)) = value;
}

template <int kDim>
__device__ __forceinline__ void store_quarter(uint8_t* tile, int row, int quarter, const EntryQuarter<kDim>& entry) {
  constexpr int kScaled = Shape<kDim>::kScaled;
#pragma unroll
  for (int block = 0; block < kScaled; ++block) {
    const uint32_t code = (entry.scales[block / 4] >> (8 * (block % 4))) & 0xffu;
    const uint4& codes = entry.codes[block];
    store_chunk(tile + block * kBlockBytes, row, 2 * quarter, fp8x8_values({codes.x, codes.y}, code));
    store_chunk(tile + block * kBlockBytes, row, 2 * quarter + 1, fp8x8_values({codes.z, codes.w}, code));
  }
  store_chunk(tile + kScaled * kBlockBytes, row, 2 * quarter, entry.rope[0]);
  store_chunk(tile + kScaled * kBlockBytes, row, 2 * quarter + 1, entry.rope[1]);
}

// The producer warpgroup: fills the stages with the CTA's key tiles.
template <int kDim>
__device__ __forceinline__ void produce(const Arguments& args, const Work& work, SharedMemory<kDim>& shared, int thread) {
  const int quarter = thread % kLanesPerKey;
  const int first_key = thread / 32 * kKeysPerWarp + thread % 32 / kLanesPerKey;  // within a tile
  int next[kPasses];  // entries of the next tile: one step of the chain list → page table → entry is off the path
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
    next[pass] = find_entry(args.params, work, work.tile_begin * kKeyTile + first_key + pass * kKeysAtOnce);
  }
  for (int tile = work.tile_begin; tile < work.tile_end; ++tile) {
    const int step = tile - work.tile_begin;
    const int stage = step % kStages;
    EntryQuarter<kDim> entries[kPasses];
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      const int key = tile * kKeyTile + first_key + pass * kKeysAtOnce;
      load_quarter<kDim>(locate<kDim>(args, work, key, next[pass]), quarter, entries[pass]);
    }
    ptx::mbarrier_wait(&shared.empty[stage], (step / kStages & 1) ^ 1);
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      const int key = first_key + pass * kKeysAtOnce;
      store_quarter<kDim>(shared.keys[stage], key, quarter, entries[pass]);
      if (quarter == 0) shared.bias[stage][key] = next[pass] < 0 ? minus_infinity() : 0.0f;
      next[pass] = find_entry(args.params, work, (tile + 1) * kKeyTile + key);
    }
    ptx::fence_async_proxy();
    ptx::mbarrier_arrive(&shared.full[stage]);
  }
}

// Q [64, kDim] into shared memory by the consumers; rows beyond the model's heads are zeros.
template <int kDim>
__device__ __forceinline__ void load_queries(const AttentionParams& params, const Work& work, SharedMemory<kDim>& shared, int thread) {
  constexpr int kChunks = kDim / 8;  // 16-byte chunks of a head
  const Bf16* q = params.q + (static_cast<int64_t>(work.row) * params.num_heads + work.head_begin) * kDim;
  const uint32_t destination = ptx::shared_address(shared.q);
#pragma unroll 8
  for (int i = thread; i < kHeadTile * kChunks; i += Shape<kDim>::kConsumers) {
    const int head = i / kChunks;
    const int chunk = i % kChunks;
    const bool valid = head < work.num_heads;
    ptx::async_load_16(destination + chunk / 8 * kBlockBytes + swizzled_offset(head, chunk % 8), q + (valid ? i * 8 : 0), valid);
  }
  ptx::async_load_wait();
  ptx::fence_async_proxy();
  ptx::named_barrier_sync(kConsumerBarrier, Shape<kDim>::kConsumers);
}

template <int kCount, typename T>
__device__ __forceinline__ void fence_operands(T (&values)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) ptx::wgmma_fence_operand(values[i]);
}

// A consumer thread's part of the online softmax: of rows g and g + 8 of its warp.
struct Softmax {
  float max[2];  // running maximum of logits·log2(e), the same in the four lanes of a row
  float sum[2];  // running sum of this thread's columns
};

// s: S of this thread → probabilities relative to the new maximum. `scale`: what O and the sums so far are to be multiplied by.
__device__ __forceinline__ void update_softmax(float (&s)[kKeyTile / 2], const float* bias, float logit_scale, int lane, Softmax& softmax,
                                               float (&scale)[2]) {
  float tile_max[2] = {minus_infinity(), minus_infinity()};
#pragma unroll
  for (int j = 0; j < kKeyTile / 8; ++j) {
    const float2 column_bias = *reinterpret_cast<const float2*>(bias + 8 * j + lane % 4 * 2);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float* logits = s + 4 * j + 2 * half;
      logits[0] = fmaf(logits[0], logit_scale, column_bias.x);
      logits[1] = fmaf(logits[1], logit_scale, column_bias.y);
      tile_max[half] = fmaxf(tile_max[half], fmaxf(logits[0], logits[1]));
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float max = fmaxf(tile_max[half], __shfl_xor_sync(0xffffffffu, tile_max[half], 1));
    max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 2));
    max = fmaxf(max, softmax.max[half]);
    const float reference = max == minus_infinity() ? 0.0f : max;  // no key so far: every probability is 2^−∞
    scale[half] = exp2f(softmax.max[half] - reference);
    softmax.max[half] = max;
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < kKeyTile / 8; ++j) {
      float* p = s + 4 * j + 2 * half;
      p[0] = exp2f(p[0] - reference);
      p[1] = exp2f(p[1] - reference);
      sum += p[0] + p[1];
    }
    softmax.sum[half] = fmaf(softmax.sum[half], scale[half], sum);
  }
}

// Probabilities as A fragments of the value product: the accumulator of columns 16k … 16k+15 is the fragment of those 16 keys. p = high +
// low up to 2^-17 of p.
__device__ __forceinline__ void split_probabilities(const float (&p)[kKeyTile / 2], uint32_t (&high)[kKeyTile / 16][4],
                                                    uint32_t (&low)[kKeyTile / 16][4]) {
#pragma unroll
  for (int k = 0; k < kKeyTile / 16; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float even = p[8 * k + 2 * i];
      const float odd = p[8 * k + 2 * i + 1];
      high[k][i] = ptx::convert_bf16x2(odd, even);
      low[k][i] = ptx::convert_bf16x2(odd - high_to_float(high[k][i]), even - low_to_float(high[k][i]));
    }
  }
}

// Where O[head, dim] of a part lies, in floats: units of 32 bytes are permuted so that the rows of a fragment meet different banks.
template <int kDim>
__device__ __forceinline__ int part_offset(int head, int dim) {
  return head * kDim + (((dim >> 3) ^ (head & 3)) << 3) + (dim & 7);
}

// The loop of one consumer warpgroup over the CTA's key tiles; then its part of O, maxima and sums are in shared memory.
template <int kDim>
__device__ __forceinline__ void consume(const Arguments& args, const Work& work, SharedMemory<kDim>& shared, int thread) {
  using S = Shape<kDim>;
  const int group = thread / kGroupThreads;
  const int warp = thread % kGroupThreads / 32;
  const int lane = thread % 32;
  float o[S::kGroupDims / 2];
#pragma unroll
  for (int i = 0; i < S::kGroupDims / 2; ++i) o[i] = 0.0f;
  Softmax softmax{{minus_infinity(), minus_infinity()}, {0.0f, 0.0f}};
  if (work.tile_begin < work.tile_end) load_queries<kDim>(args.params, work, shared, thread);

  const uint64_t q = swizzled_descriptor(ptx::shared_address(shared.q));
  for (int tile = work.tile_begin; tile < work.tile_end; ++tile) {
    const int step = tile - work.tile_begin;
    const int stage = step % kStages;
    const uint32_t tile_address = ptx::shared_address(shared.keys[stage]);
    const uint64_t keys = swizzled_descriptor(tile_address);
    // K rows of the value product are keys: groups of 8 lie 1024 bytes apart, tiles of 64 dims one block.
    const uint64_t values = swizzled_descriptor(tile_address + group * (S::kGroupDims / kKvBlock) * kBlockBytes, kBlockBytes);
    ptx::mbarrier_wait(&shared.full[stage], step / kStages & 1);

    float s[kKeyTile / 2];
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
      const uint32_t offset = (k / 4 * kBlockBytes + k % 4 * 32) >> 4;
      ptx::wgmma_bf16_ss<kKeyTile>(s, q + offset, keys + offset, k > 0);
    }
    ptx::wgmma_commit_group();
    ptx::wgmma_wait_group<0>();
    fence_operands(s);

    float scale[2];
    update_softmax(s, shared.bias[stage], args.logit_scale, lane, softmax, scale);
    uint32_t high[kKeyTile / 16][4], low[kKeyTile / 16][4];
    split_probabilities(s, high, low);
    if (__any_sync(0xffffffffu, scale[0] != 1.0f || scale[1] != 1.0f)) {
#pragma unroll
      for (int i = 0; i < S::kGroupDims / 2; ++i) o[i] *= scale[i / 2 % 2];
    }
    fence_operands(o);
#pragma unroll
    for (int k = 0; k < kKeyTile / 16; ++k) {
      fence_operands(high[k]);
      fence_operands(low[k]);
    }
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < kKeyTile / 16; ++k) {
      const uint32_t offset = (k * 16 * kSwizzleRowBytes) >> 4;
      ptx::wgmma_bf16_rs<S::kGroupDims, true>(o, high[k], values + offset, true);
      ptx::wgmma_bf16_rs<S::kGroupDims, true>(o, low[k], values + offset, true);
    }
    ptx::wgmma_commit_group();
    ptx::wgmma_wait_group<0>();
    fence_operands(o);
    ptx::mbarrier_arrive(&shared.empty[stage]);
  }

  // No consumer reads keys any more, and the producer has no tile left: O takes their place.
  ptx::named_barrier_sync(kConsumerBarrier, S::kConsumers);
  float* part = reinterpret_cast<float*>(shared.keys);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int head = warp * 16 + lane / 4 + half * 8;
#pragma unroll
    for (int j = 0; j < S::kGroupDims / 8; ++j) {
      const int dim = group * S::kGroupDims + j * 8 + lane % 4 * 2;
      *reinterpret_cast<float2*>(part + part_offset<kDim>(head, dim)) = make_float2(o[4 * j + 2 * half], o[4 * j + 2 * half + 1]);
    }
    float sum = softmax.sum[half] + __shfl_xor_sync(0xffffffffu, softmax.sum[half], 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    if (group == 0 && lane % 4 == 0) {
      shared.row_max[head] = softmax.max[half];
      shared.row_sum[head] = sum;
    }
  }
  __syncwarp();
}

// Adds the parts of all CTAs of the cluster for every num_ranks-th head, one head per consumer warp at a time, and writes the output.
template <int kDim>
__device__ __forceinline__ void finish(const AttentionParams& params, const Work& work, SharedMemory<kDim>& shared, int thread) {
  constexpr int kColumns = 32 * 4;  // dims of a warp at a time
  constexpr int kVectors = (kDim + kColumns - 1) / kColumns;
  const int lane = thread % 32;
  for (int head = thread / 32 * work.num_ranks + work.rank; head < work.num_heads; head += Shape<kDim>::kConsumers / 32 * work.num_ranks) {
    float part_max = minus_infinity();
    float part_sum = 0.0f;
    if (lane < work.num_ranks) {
      part_max = ptx::load_cluster(ptx::map_shared(&shared.row_max[head], lane));
      part_sum = ptx::load_cluster(ptx::map_shared(&shared.row_sum[head], lane));
    }
    const float max = warp_max(part_max);
    const float part_weight = exp2f(part_max - max);  // 0 for a part without keys
    part_sum *= part_weight;
    float denominator = 0.0f;
    float4 sums[kVectors];
#pragma unroll
    for (int v = 0; v < kVectors; ++v) sums[v] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 8
    for (int rank = 0; rank < work.num_ranks; ++rank) {
      const float weight = __shfl_sync(0xffffffffu, part_weight, rank);
      denominator += __shfl_sync(0xffffffffu, part_sum, rank);
      const uint32_t part = ptx::map_shared(shared.keys, rank);
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        const int dim = v * kColumns + lane * 4;
        if (dim >= kDim) continue;
        const float4 o = ptx::load_cluster_float4(part + part_offset<kDim>(head, dim) * sizeof(float));
        sums[v] = make_float4(fmaf(weight, o.x, sums[v].x), fmaf(weight, o.y, sums[v].y), fmaf(weight, o.z, sums[v].z),
                              fmaf(weight, o.w, sums[v].w));
      }
    }
    denominator += exp2f(params.sink[work.head_begin + head] * kLog2E - max);

    Bf16* out = params.out + (static_cast<int64_t>(work.row) * params.num_heads + work.head_begin + head) * kDim;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int dim = v * kColumns + lane * 4;
      if (dim >= kDim) continue;
      float o[4] = {round_to_bf16(sums[v].x / denominator), round_to_bf16(sums[v].y / denominator), round_to_bf16(sums[v].z / denominator),
                    round_to_bf16(sums[v].w / denominator)};
      if (dim >= kDim - kRopeDim) {
        const int pair = (dim - (kDim - kRopeDim)) / 2;
        rotate_back(o[0], o[1], shared.rotations[pair]);
        rotate_back(o[2], o[3], shared.rotations[pair + 1]);
      }
      *reinterpret_cast<uint2*>(out + dim) = make_uint2(ptx::convert_bf16x2(o[1], o[0]), ptx::convert_bf16x2(o[3], o[2]));
    }
  }
}

// A padding row: this CTA's share of zeros.
template <int kDim>
__device__ __forceinline__ void write_zeros(const AttentionParams& params, const Work& work) {
  uint4* out = reinterpret_cast<uint4*>(params.out + (static_cast<int64_t>(work.row) * params.num_heads + work.head_begin) * kDim);
  const int stride = work.num_ranks * Shape<kDim>::kThreads;
  for (int i = work.rank * Shape<kDim>::kThreads + threadIdx.x; i < work.num_heads * kDim / 8; i += stride) out[i] = make_uint4(0, 0, 0, 0);
}

template <int kDim>
__global__ void __launch_bounds__(Shape<kDim>::kThreads, 1) attention_kernel(const __grid_constant__ Arguments args) {
  using S = Shape<kDim>;
  extern __shared__ __align__(kSwizzleAtomBytes) uint8_t memory[];
  SharedMemory<kDim>& shared = *reinterpret_cast<SharedMemory<kDim>*>(memory);
  const AttentionParams& params = args.params;
  const int thread = threadIdx.x;
  Work work;
  work.num_ranks = static_cast<int>(ptx::cluster_size());
  work.rank = static_cast<int>(ptx::cluster_rank());
  const int item = static_cast<int>(blockIdx.x) / work.num_ranks;
  work.row = item / args.num_head_tiles;
  work.head_begin = item % args.num_head_tiles * kHeadTile;
  work.num_heads = min(params.num_heads - work.head_begin, kHeadTile);
  if (thread == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      ptx::mbarrier_init(&shared.full[stage], kGroupThreads);
      ptx::mbarrier_init(&shared.empty[stage], S::kConsumers);
    }
    ptx::fence_barrier_init();
  }
  ptx::grid_dependency_wait();
  ptx::grid_launch_dependents();
  work.position = load_here(params.batch.positions + work.row);
  const int seq_idx = load_here(params.batch.seq_idx + work.row);
  if (work.position < 0) {
    write_zeros<kDim>(params, work);
    return;
  }
  if (!find_keys(args, seq_idx, work)) return;
  __syncthreads();

  if (thread >= S::kConsumers) {
    if constexpr (S::kGroups > 1) ptx::decrease_registers<kProducerRegisters>();
    const int producer = thread - S::kConsumers;
    produce<kDim>(args, work, shared, producer);
    if (producer < kRopeDim / 2) shared.rotations[producer] = rope_rotation(work.position, params.freqs[producer]);
    __syncwarp();
    ptx::cluster_sync();  // the parts of all CTAs are there
    ptx::cluster_sync();  // all of them have been read
  } else {
    if constexpr (S::kGroups > 1) ptx::increase_registers<kConsumerRegisters>();
    consume<kDim>(args, work, shared, thread);
    ptx::cluster_sync();
    finish<kDim>(params, work, shared, thread);
    __syncwarp();
    ptx::cluster_sync();
  }
}

template <int kDim>
void launch_attention(Context& context, const AttentionParams& params) {
  Arguments args{};
  args.params = params;
  args.ring_page_bytes = Shape<kDim>::kLayout.page_bytes(params.ring.ring_size);
  args.entry_page_bytes = params.entries.data == nullptr ? 0 : Shape<kDim>::kLayout.page_bytes(params.entries.entries_per_page);
  args.logit_scale = params.softmax_scale * kLog2E;
  args.num_head_tiles = (params.num_heads + kHeadTile - 1) / kHeadTile;
  LaunchConfig config;
  config.block = dim3(Shape<kDim>::kThreads);
  config.shared_bytes = sizeof(SharedMemory<kDim>);
  const unsigned num_items = static_cast<unsigned>(params.batch.num_tokens) * static_cast<unsigned>(args.num_head_tiles);
  if (params.min_new_tokens <= kMaxSplitRows) {
    config.grid = dim3(num_items * kSplitCtas);
    config.cluster_size = kSplitCtas;
    args.min_rows = 0;
    args.max_rows = kMaxSplitRows;
    launch(context, "attention", attention_kernel<kDim>, config, args);
  }
  if (params.max_new_tokens == 0 || params.max_new_tokens > kMaxSplitRows) {
    config.grid = dim3(num_items);
    config.cluster_size = 1;
    args.min_rows = kMaxSplitRows + 1;
    args.max_rows = INT32_MAX;
    launch(context, "attention", attention_kernel<kDim>, config, args);
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
  switch (params.head_dim) {
    case 64:
      return launch_attention<64>(context, params);
    case 128:
      return launch_attention<128>(context, params);
    case 256:
      return launch_attention<256>(context, params);
    case 512:
      return launch_attention<512>(context, params);
    default:
      fail_line("attention: head_dim %d, expected 64, 128, 256 or 512", params.head_dim);
  }
}

}  // namespace dsv4::cuda
