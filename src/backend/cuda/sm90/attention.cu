// Core attention with sink (ops/attention.h) on wgmma, f16 operands and fp32 sums.
//
// Work. A row × kHeads heads belongs to a CTA, or to a cluster that shares its keys. Keys (window ascending, then entries) come in tiles of
// 64. Every tile's products start from zero, relative to the tile's own maxima, and are added to those of the tiles before it in fp32, with
// exact factors (fold(), block/attention_output.h). So a row's bits depend on its keys alone, not on who computed which tile, and kHeads
// and the number of CTAs are chosen by what fills the GPU (make_plan()).
//
//   producer warpgroup       bulk copies of entries, FP8 as stored, into 3 tiles of shared memory, ahead of their use
//   consumer warpgroup 0     S of heads 0 … kHeads/2 − 1 |softmax| P → shared | O += Vᵀ·P, dims 0 … D/2 − 1, all heads
//   consumer warpgroup 1     S of the other heads        |softmax| P → shared | O += Vᵀ·P, the other dims
//
// Products. S [64 keys, heads] = K·Qᵀ and O [dims, heads] = Vᵀ·P: keys and values are the A operand, widened from FP8 to f16 in registers
// (block/key_tile.h), Q and P are B, in shared memory. Nothing dequantised is ever stored.
//
// Numbers. P is taken as two f16, high and low: 22 bits. Maxima are rounded up to integers (of logits in powers of two), so that changing
// them is exact; P is up to 2^15, which puts the low term of what matters above the subnormals.
//
// Budget per tile of 64 keys, D = 512, 64 heads: S 32 wgmma m64n64k16 = 1024 cycles, O 2 × 32 = 2048. docs/kernels/attention.md.
#include "backend/cuda/block/attention_output.h"
#include "backend/cuda/block/divisor.h"
#include "backend/cuda/block/formats.h"
#include "backend/cuda/block/key_tile.h"
#include "backend/cuda/block/rope.h"
#include "backend/cuda/block/swizzle.h"
#include "backend/cuda/ops.h"
#include "backend/cuda/ptx/cluster.h"
#include "backend/cuda/ptx/copy.h"
#include "backend/cuda/ptx/exp2.h"
#include "backend/cuda/ptx/grid.h"
#include "backend/cuda/ptx/matrix.h"
#include "backend/cuda/ptx/registers.h"
#include "backend/cuda/ptx/wgmma.h"

namespace dsv4::cuda {
namespace {

constexpr int kStages = 3;
constexpr int kTerms = 2;  // of P
constexpr int kGroupThreads = 128;
constexpr int kConsumers = 2 * kGroupThreads;
constexpr int kThreads = kConsumers + kGroupThreads;
constexpr int kMaxHeads = 64;
constexpr int kHeadroom = 15;  // P is relative to 2^(maximum − kHeadroom)
// Rows of more tiles are added up in kLongGroups groups, each for itself and then one after another.
constexpr int kShortTiles = 32;
constexpr int kLongGroups = 4;
constexpr int kConsumerBarrier = 1;
constexpr int kGroupBarrier = 2;  // and 3
constexpr int kProducerRegisters = 40;
constexpr int kConsumerRegisters = 232;
static_assert(kProducerRegisters + 2 * kConsumerRegisters <= 3 * 168, "more would wait for each other for ever");
constexpr uint32_t kTermBytes = kTileKeys * kSwizzleRowBytes;      // a term of P of a tile
constexpr uint32_t kProbabilityStep = 16 * kSwizzleRowBytes >> 4;  // descriptor units of 16 keys
constexpr float kLog2E = 1.44269504088896340736f;

// Shapes that follow from head_dim and the heads of a CTA.
template <int kDim, int kHeads>
struct Shape {
  static constexpr int kBlocks = kDim / kBlockDims;
  static constexpr int kGroupBlocks = kBlocks < 2 ? 1 : kBlocks / 2;  // blocks of O of a consumer warpgroup
  static constexpr int kGroupHeads = kHeads / 2;                      // heads of S of a consumer warpgroup
  static constexpr int kHeadGroups = kGroupHeads / 8;                 // of eight
  static constexpr bool kDeep = kHeads < 64;                          // registers for the products of two blocks at a time
  // A share of a row that is finished by one CTA of a cluster: eight heads × 128 dims, a float4 per thread.
  static constexpr int kShareThreads = kBlocks < 2 ? kGroupThreads : kConsumers;
  static constexpr int kDimShares = kBlocks < 2 ? 1 : kBlocks / 2;
  static constexpr int kShares = kHeads / 8 * kDimShares;
  static constexpr int kPartVectors = kShares * kShareThreads;  // float4 of a part in scratch memory
};

template <int kDim, int kHeads>
using Output = float[Shape<kDim, kHeads>::kGroupBlocks][kHeads / 2];

// Whether the i-th block of a warpgroup, `block` of the head, holds the rotated dims.
template <int kDim, int kHeads>
__device__ __forceinline__ bool is_rotated_block(int block, int i) {
  return i == Shape<kDim, kHeads>::kGroupBlocks - 1 && block == Shape<kDim, kHeads>::kBlocks - 1;
}

// What a CTA works on; the same in all its threads.
struct Work {
  OutputHeads heads;
  int position;
  int seq_idx;
  int num_window, num_keys;
  int num_tiles, num_groups;  // of the row
  int tile_begin, tile_end;   // of this CTA
};

// The part of a CTA's tiles that is being summed up, and the tile before which it ends.
struct Part {
  int index;
  int tile_end;
};

// What a consumer warp would hold in registers, if it had them.
struct WarpState {
  Work work;
  Part part;
  int unit;
};

template <int kDim, int kHeads>
struct SharedMemory {
  alignas(kSwizzleAtomBytes) uint8_t q[Shape<kDim, kHeads>::kBlocks][kHeads * kSwizzleRowBytes];
  alignas(kSwizzleAtomBytes) uint8_t p[2][kTerms][kTermBytes];  // of even and odd tiles: [64 keys, heads]; two output buffers at the end
  KeyTile<kDim> tiles[kStages];                                 // factors of parts at the end of a shared row
  alignas(16) int maxima[2][kHeads];                            // of even and odd tiles
  alignas(16) float keep[2][kHeads];                            // fold factors of even and odd tiles
  alignas(16) float gain[2][kHeads];
  PartSum sums[kHeads];    // of the tiles so far
  PartSum groups[kHeads];  // of the groups so far
  float warp_sums[kConsumers / 32][kHeads / 2];
  float sinks[kHeads];  // times log2(e)
  OutputScales<kHeads> scales;
  WarpState warps[kConsumers / 32];
  uint64_t full[kStages];
  uint64_t empty[kStages];

  __device__ float* output(int buffer) { return reinterpret_cast<float*>(p) + buffer * kEmitHeads * kDim; }
  // [part][head], and behind them [group][head].
  __device__ FoldFactors* part_factors() { return reinterpret_cast<FoldFactors*>(tiles); }
  static constexpr int kMaxParts = static_cast<int>(sizeof(KeyTile<kDim>[kStages]) / (kHeads * sizeof(FoldFactors))) - kLongGroups;
};
static_assert(sizeof(SharedMemory<512, 64>) <= 227 * 1024, "the most a CTA may have on Hopper");
static_assert(sizeof(SharedMemory<512, 64>::p) >= 2 * kEmitHeads * 512 * sizeof(float));
static_assert(SharedMemory<64, 64>::kMaxParts >= kShortTiles + 1);

struct Arguments {
  AttentionParams params;
  size_t ring_page_bytes;
  size_t entry_page_bytes;
  float logit_scale;   // softmax_scale·log2(e): exponentials are powers of two
  int num_units;       // rows × tiles of heads
  int split;           // CTAs of a cluster, which share a unit
  bool by_tile;        // a shared row is handed over tile by tile, not group by group
  int max_parts;       // of a unit in scratch memory
  float4* parts;       // [unit, max_parts, share, thread of the share]; without sharing [CTA, share, thread]
  PartSum* part_sums;  // [unit, max_parts, head]
  Divisor num_head_tiles;
  Divisor ring_size;
  Divisor ratio;
  Divisor entries_per_page;
};

__device__ __forceinline__ int cluster_rank() {
  return static_cast<int>(ptx::cluster_rank());
}
__device__ __forceinline__ int cluster_index() {
  return static_cast<int>(ptx::cluster_index());
}
__device__ __forceinline__ int num_clusters() {
  return static_cast<int>(ptx::num_clusters());
}

// A load that the compiler leaves where it is: loads that do not wait for each other's values are then under way together.
__device__ __forceinline__ int load_here(const int32_t* address) {
  return *static_cast<const volatile int32_t*>(address);
}

__device__ __forceinline__ int group_begin(const Work& work, int group) {
  return work.num_groups == 1 ? group * work.num_tiles : static_cast<int>(static_cast<int64_t>(work.num_tiles) * group / kLongGroups);
}

// The first tile of rank `rank`, of groups where whole groups are handed over.
__device__ __forceinline__ int run_begin(const Arguments& args, const Work& work, int rank) {
  const int items = args.by_tile ? work.num_tiles : work.num_groups;
  const int begin = (items * rank + args.split - 1) / args.split;
  return args.by_tile ? begin : group_begin(work, begin);
}

// The row and heads of a unit and the tiles of rank `rank`; false for padding and heads that do not exist.
__device__ __forceinline__ bool find_work(const Arguments& args, int unit, int rank, Work& work) {
  const AttentionParams& params = args.params;
  work.heads.row = args.num_head_tiles.quotient(unit);
  const int head_tile = unit - work.heads.row * static_cast<int>(args.num_head_tiles.value);
  work.position = load_here(params.batch.positions + work.heads.row);
  work.seq_idx = load_here(params.batch.seq_idx + work.heads.row);
  int most_window = params.window, most_entries = 1 << 30;
  if (params.key_counts != nullptr) {
    most_window = max(0, load_here(params.key_counts + 2 * static_cast<int64_t>(work.heads.row)));
    most_entries = max(0, load_here(params.key_counts + 2 * static_cast<int64_t>(work.heads.row) + 1));
  }
  work.heads.head_begin = head_tile;  // times the heads of a CTA: the caller knows them
  if (work.position < 0) return false;
  int num_entries = 0;
  if (params.entries.data != nullptr) {
    const int num_visible = args.ratio.quotient(work.position + 1);
    num_entries = params.selected == nullptr ? num_visible : min(num_visible, params.num_selected);
  }
  work.num_window = min(min(work.position + 1, params.window), most_window);
  work.num_keys = work.num_window + min(num_entries, most_entries);
  work.num_tiles = (work.num_keys + kTileKeys - 1) / kTileKeys;
  work.num_groups = work.num_tiles > kShortTiles ? kLongGroups : 1;
  work.tile_begin = args.split == 1 ? 0 : run_begin(args, work, rank);
  work.tile_end = args.split == 1 ? work.num_tiles : run_begin(args, work, rank + 1);
  return true;
}

template <int kHeads>
__device__ __forceinline__ bool find_unit(const Arguments& args, int unit, int rank, Work& work) {
  const bool found = find_work(args, unit, rank, work);
  work.heads.head_begin *= kHeads;
  work.heads.num_heads = min(args.params.num_heads - work.heads.head_begin, kHeads);
  return found;
}

// Where the keys of a row are.
struct KeySource {
  const uint8_t* ring;        // the slot's page
  const int32_t* page_table;  // of the sequence
  const int32_t* selected;    // of the row; nullptr: all visible entries
  int first_place;            // of the window in the ring
};

// Index of a key in its cache: the place in the ring or the entry of the sequence; −1: none.
__device__ __forceinline__ int find_entry(const Arguments& args, const Work& work, const KeySource& source, int key) {
  if (key >= work.num_keys) return -1;
  if (key < work.num_window) {
    const int place = source.first_place + key;
    return place < args.params.ring.ring_size ? place : place - args.params.ring.ring_size;
  }
  const int i = key - work.num_window;
  return source.selected == nullptr ? i : source.selected[i];
}

template <int kDim>
__device__ __forceinline__ EntryPlace locate(const Arguments& args, const Work& work, const KeySource& source, int key, int entry) {
  if (entry < 0) return {nullptr, nullptr};
  constexpr KvEntryLayout kLayout{kDim};
  const AttentionParams& params = args.params;
  if (key < work.num_window)
    return {source.ring + kLayout.value_offset(entry), source.ring + kLayout.scale_offset(entry, params.ring.ring_size)};
  const int entries_per_page = params.entries.entries_per_page;
  const int page_idx = args.entries_per_page.quotient(entry);
  const uint8_t* page = params.entries.data + static_cast<size_t>(source.page_table[page_idx]) * args.entry_page_bytes;
  const int in_page = entry - page_idx * entries_per_page;
  return {page + kLayout.value_offset(in_page), page + kLayout.scale_offset(in_page, entries_per_page)};
}

// The producer warpgroup: half of it fills the even tiles, half the odd ones, a thread per key. `first_step`: tiles that passed before.
template <int kDim, int kHeads>
__device__ __forceinline__ void produce(const Arguments& args, const Work& work, SharedMemory<kDim, kHeads>& shared, int thread,
                                        int first_step) {
  const AttentionParams& params = args.params;
  KeySource source;
  source.first_place = args.ring_size.remainder(work.position - work.num_window + 1);
  source.ring = params.ring.data + static_cast<size_t>(load_here(params.batch.slots + work.seq_idx)) * args.ring_page_bytes;
  source.page_table = params.batch.page_table + static_cast<int64_t>(work.seq_idx) * params.batch.page_table_stride;
  source.selected = params.selected == nullptr ? nullptr : params.selected + static_cast<int64_t>(work.heads.row) * params.num_selected;
  const int key = thread % kTileKeys;
  int tile = work.tile_begin + thread / kTileKeys;
  int entry = tile < work.tile_end ? find_entry(args, work, source, tile * kTileKeys + key) : -1;
  for (; tile < work.tile_end; tile += 2) {
    const EntryPlace place = locate<kDim>(args, work, source, tile * kTileKeys + key, entry);
    const int step = first_step + tile - work.tile_begin;
    const int stage = step % kStages;
    if (step >= kStages) ptx::mbarrier_wait(&shared.empty[stage], (step / kStages & 1) ^ 1);
    fill_key<kDim>(shared.tiles[stage], key, place, &shared.full[stage]);
    if (tile + 2 < work.tile_end) entry = find_entry(args, work, source, (tile + 2) * kTileKeys + key);
  }
}

// Q [kHeads, kDim] into shared memory as f16, in the order of key_fragments(); heads beyond the model's are zeros. Returns what the thread
// works out while Q is on its way: the rotation of its pair of dims (of the first kRopeDim/2 threads).
template <int kDim, int kHeads>
__device__ __forceinline__ Rotation load_queries(const AttentionParams& params, const OutputHeads& heads, int position,
                                                 SharedMemory<kDim, kHeads>& shared, int thread) {
  constexpr int kBlocks = Shape<kDim, kHeads>::kBlocks;
  constexpr int kItems = kHeads / 4 * kBlocks / (kConsumers / 32);  // of a warp: 4 heads × a block
  constexpr int kAtOnce = kItems < 8 ? kItems : 8;
  static_assert(kItems % kAtOnce == 0);
  const Bf16* q = params.q + (static_cast<int64_t>(heads.row) * params.num_heads + heads.head_begin) * kDim;
  const int warp = thread / 32, chunk = thread % 8, head_in_group = thread % 32 / 8;
  Rotation rotation{};
#pragma unroll 1
  for (int begin = 0; begin < kItems; begin += kAtOnce) {
    uint4 chunks[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int item = (begin + j) * (kConsumers / 32) + warp;
      const int head = item / kBlocks * 4 + head_in_group, block = item % kBlocks;
      chunks[j] = head < heads.num_heads
                      ? *reinterpret_cast<const uint4*>(q + static_cast<int64_t>(head) * kDim + block * kBlockDims + chunk * 8)
                      : make_uint4(0, 0, 0, 0);
    }
    if (begin == 0 && thread < kRopeDim / 2) rotation = rope_rotation(position, params.freqs[thread]);
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int item = (begin + j) * (kConsumers / 32) + warp;
      const int head = item / kBlocks * 4 + head_in_group, block = item % kBlocks;
      const uint32_t words[4] = {chunks[j].x, chunks[j].y, chunks[j].z, chunks[j].w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t offset = query_offset(4 * chunk + i);
        *reinterpret_cast<uint32_t*>(shared.q[block] + swizzled_offset(head, offset / 16) + offset % 16) = bf16x2_to_f16x2(words[i]);
      }
    }
  }
  return rotation;
}

template <int kCount>
__device__ __forceinline__ void fence_operands(float (&values)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) ptx::wgmma_fence_operand(values[i]);
}
__device__ __forceinline__ void fence_operands(Fragments& a) {
#pragma unroll
  for (int i = 0; i < 16; ++i) ptx::wgmma_fence_operand(a[i / 4][i % 4]);
}

// s [64 keys, the warpgroup's heads] = K·Qᵀ of a tile, not scaled. A block's fragments are made while the one before it is multiplied.
template <int kDim, int kHeads>
__device__ __forceinline__ void multiply_keys(SharedMemory<kDim, kHeads>& shared, const KeyTile<kDim>& tile, int group,
                                              float (&s)[kHeads / 4]) {
  constexpr int kBlocks = Shape<kDim, kHeads>::kBlocks, kGroupHeads = Shape<kDim, kHeads>::kGroupHeads;
  Fragments a[2];
  RawKeys raw;
  load_keys<kDim>(tile, 0, raw);
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) {
    Fragments& fragments = a[block % 2];
    key_fragments<kDim>(raw, block, fragments);
    if (block + 1 < kBlocks) load_keys<kDim>(tile, block + 1, raw);
    fence_operands(fragments);
    fence_operands(s);
    ptx::wgmma_fence();
    const uint64_t q = swizzled_descriptor(ptx::shared_address(shared.q[block]) + group * kGroupHeads * kSwizzleRowBytes);
#pragma unroll
    for (int step = 0; step < 4; ++step) ptx::wgmma_f16_rs<kGroupHeads, false>(s, fragments[step], q + 2 * step, block > 0 || step > 0);
    ptx::wgmma_commit_group();
    if (block == 0) continue;
    ptx::wgmma_wait_group<1>();
    fence_operands(a[(block + 1) % 2]);
  }
  ptx::wgmma_wait_group<0>();
  fence_operands(a[(kBlocks + 1) % 2]);
  fence_operands(s);
}

// Halves what each lane holds: with lane ^ kBit it exchanges one half of values[2·kCount] and keeps the other, combined.
template <int kCount, int kBit, int kSize, class Combine>
__device__ __forceinline__ void exchange_half(float (&values)[kSize], const Combine& combine) {
  const bool upper = (threadIdx.x & kBit) != 0;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const float other = __shfl_xor_sync(0xffffffffu, upper ? values[i] : values[i + kCount], kBit);
    values[i] = combine(upper ? values[i + kCount] : values[i], other);
  }
}

// values[2j + e] of lane (g, q) belongs to head 8j + 2q + e and some keys. Returns the combination over all eight g of the heads
// owned_head(lane) and the next.
template <int kSize, class Combine>
__device__ __forceinline__ float2 combine_keys(float (&values)[kSize], const Combine& combine) {
  constexpr int kHeadGroups = kSize / 2;
  if constexpr (kHeadGroups == 4) {
    exchange_half<4, 16>(values, combine);
    exchange_half<2, 8>(values, combine);
  } else if constexpr (kHeadGroups == 2) {
    exchange_half<2, 16>(values, combine);
  }
#pragma unroll
  for (int bit = 32 / kHeadGroups / 2; bit >= 4; bit /= 2) {
#pragma unroll
    for (int i = 0; i < 2; ++i) values[i] = combine(values[i], __shfl_xor_sync(0xffffffffu, values[i], bit));
  }
  return make_float2(values[0], values[1]);
}
template <int kHeadGroups>
__device__ __forceinline__ int owned_head(int lane) {
  return lane * kHeadGroups / 32 * 8 + lane % 4 * 2;
}
// One lane per head of those that have the same.
template <int kHeadGroups>
__device__ __forceinline__ bool owns_head(int lane) {
  return lane / 4 % (8 / kHeadGroups) == 0;
}

// s ← the logits in powers of two, −∞ where there is no key; their maxima go to shared memory.
template <int kDim, int kHeads>
__device__ __forceinline__ void find_maxima(SharedMemory<kDim, kHeads>& shared, const KeyTile<kDim>& tile, int group, int parity,
                                            float scale, float (&s)[kHeads / 4]) {
  constexpr int kHeadGroups = Shape<kDim, kHeads>::kHeadGroups;
  const int lane = threadIdx.x % 32;
  const int key = key_of_row(threadIdx.x / 32 % 4 * 16 + lane / 4);
  const float bias[2] = {tile.bias[key], tile.bias[key + 8]};
  float largest[2 * kHeadGroups];
#pragma unroll
  for (int i = 0; i < 4 * kHeadGroups; ++i) s[i] = fmaf(s[i], scale, bias[i / 2 % 2]);
#pragma unroll
  for (int i = 0; i < 2 * kHeadGroups; ++i) largest[i] = fmaxf(s[i / 2 * 4 + i % 2], s[i / 2 * 4 + i % 2 + 2]);
  const float2 maximum = combine_keys(largest, [](float a, float b) { return fmaxf(a, b); });
  if (!owns_head<kHeadGroups>(lane)) return;
  int* maxima = shared.maxima[parity] + group * Shape<kDim, kHeads>::kGroupHeads + owned_head<kHeadGroups>(lane);
  atomicMax(maxima, max(__float2int_ru(maximum.x), kNoMaximum + kHeadroom) - kHeadroom);
  atomicMax(maxima + 1, max(__float2int_ru(maximum.y), kNoMaximum + kHeadroom) - kHeadroom);
}

// Logits → probabilities relative to the maxima: into shared memory as f16 terms, and their sums.
template <int kDim, int kHeads>
__device__ __forceinline__ void weigh_keys(SharedMemory<kDim, kHeads>& shared, int group, int parity, float (&s)[kHeads / 4]) {
  constexpr int kHeadGroups = Shape<kDim, kHeads>::kHeadGroups;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int2* maxima = reinterpret_cast<const int2*>(shared.maxima[parity] + group * Shape<kDim, kHeads>::kGroupHeads);
  const uint32_t terms = ptx::shared_address(shared.p[parity]);
  const uint32_t row = warp % 4 * 16 + lane % 16;
  constexpr int kAtOnce = kHeadGroups < 2 ? 1 : 2;  // groups of eight heads
  float totals[2 * kHeadGroups];
#pragma unroll
  for (int begin = 0; begin < kHeadGroups; begin += kAtOnce) {
    uint32_t words[kTerms][2 * kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int j = begin + i;
      const int2 maximum = maxima[4 * j + lane % 4];
      const float x = static_cast<float>(maximum.x), y = static_cast<float>(maximum.y);
      float p[4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float even = p[2 * half] = ptx::exp2_approx(s[4 * j + 2 * half] - x);
        float odd = p[2 * half + 1] = ptx::exp2_approx(s[4 * j + 2 * half + 1] - y);
        words[0][2 * i + half] = ptx::convert_f16x2(odd, even);
        float odd_high, even_high;
        ptx::widen_f16x2(words[0][2 * i + half], odd_high, even_high);
        words[1][2 * i + half] = ptx::convert_f16x2(odd - odd_high, even - even_high);
      }
      totals[2 * j] = p[0] + p[2];
      totals[2 * j + 1] = p[1] + p[3];
    }
    const uint32_t place = swizzled_offset(row, group * kHeadGroups + begin + (kAtOnce == 2 ? lane / 16 : 0));
#pragma unroll
    for (int term = 0; term < kTerms; ++term) {
      const uint32_t address = terms + term * kTermBytes + place;
      if constexpr (kAtOnce == 2) {
        ptx::store_matrices(address, words[term][0], words[term][1], words[term][2], words[term][3]);
      } else {
        ptx::store_matrices(address, words[term][0], words[term][1]);
      }
    }
  }
  const float2 total = combine_keys(totals, [](float a, float b) { return a + b; });
  if (owns_head<kHeadGroups>(lane)) *reinterpret_cast<float2*>(&shared.warp_sums[warp][owned_head<kHeadGroups>(lane)]) = total;
}

// sum ← Vᵀ·P of a block of dims of a tile, not waited for.
template <int kDim, int kHeads>
__device__ __forceinline__ void multiply_values(SharedMemory<kDim, kHeads>& shared, int parity, Fragments& fragments,
                                                float (&sum)[kHeads / 2]) {
  fence_operands(fragments);
  fence_operands(sum);
  ptx::wgmma_fence();
#pragma unroll
  for (int term = kTerms - 1; term >= 0; --term) {  // the smaller first: sums are truncated
    const uint64_t p = swizzled_descriptor(ptx::shared_address(shared.p[parity][term]));
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      ptx::wgmma_f16_rs<kHeads, true>(sum, fragments[step], p + step * kProbabilityStep, term < kTerms - 1 || step > 0);
    }
  }
  ptx::wgmma_commit_group();
}

// o[a block] += sum·gain.
template <int kDim, int kHeads>
__device__ __forceinline__ void add_block(const SharedMemory<kDim, kHeads>& shared, int parity, float (&sum)[kHeads / 2],
                                          float (&o)[kHeads / 2]) {
  const float2* gains = reinterpret_cast<const float2*>(shared.gain[parity]);
#pragma unroll
  for (int j = 0; j < kHeads / 8; ++j) {
    const float2 gain = gains[4 * j + threadIdx.x % 4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      o[4 * j + 2 * half] = __fmaf_rn(sum[4 * j + 2 * half], gain.x, o[4 * j + 2 * half]);
      o[4 * j + 2 * half + 1] = __fmaf_rn(sum[4 * j + 2 * half + 1], gain.y, o[4 * j + 2 * half + 1]);
    }
  }
}

// o ← o·factors.
template <int kDim, int kHeads>
__device__ __forceinline__ void rescale(const float* factors, Output<kDim, kHeads>& o) {
  const float2* pairs = reinterpret_cast<const float2*>(factors);
#pragma unroll
  for (int j = 0; j < kHeads / 8; ++j) {
    const float2 factor = pairs[4 * j + threadIdx.x % 4];
#pragma unroll
    for (int i = 0; i < Shape<kDim, kHeads>::kGroupBlocks; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        o[i][4 * j + 2 * half] = __fmul_rn(o[i][4 * j + 2 * half], factor.x);
        o[i][4 * j + 2 * half + 1] = __fmul_rn(o[i][4 * j + 2 * half + 1], factor.y);
      }
    }
  }
}

// o += Vᵀ·P of a tile for the warpgroup's blocks. A block's fragments are made while the one before it is multiplied.
template <int kDim, int kHeads>
__device__ __forceinline__ void add_values(SharedMemory<kDim, kHeads>& shared, const KeyTile<kDim>& tile, int group, int parity,
                                           Output<kDim, kHeads>& o) {
  using S = Shape<kDim, kHeads>;
  constexpr int kSums = S::kDeep ? 2 : 1;
  const int first_block = group * S::kGroupBlocks;
  Fragments a[2];
  float sums[kSums][kHeads / 2];
  value_fragments<kDim>(tile, first_block, is_rotated_block<kDim, kHeads>(first_block, 0), a[0]);
  multiply_values<kDim, kHeads>(shared, parity, a[0], sums[0]);
#pragma unroll
  for (int i = 0; i < S::kGroupBlocks; ++i) {
    const bool more = i + 1 < S::kGroupBlocks;
    const int next = (i + 1) % 2;
    if (more) value_fragments<kDim>(tile, first_block + i + 1, is_rotated_block<kDim, kHeads>(first_block + i + 1, i + 1), a[next]);
    if (S::kDeep && more) {
      multiply_values<kDim, kHeads>(shared, parity, a[next], sums[next % kSums]);
      ptx::wgmma_wait_group<1>();
    } else {
      ptx::wgmma_wait_group<0>();
    }
    fence_operands(a[i % 2]);
    fence_operands(sums[i % kSums]);
    add_block<kDim, kHeads>(shared, parity, sums[i % kSums], o[i]);
    if (!S::kDeep && more) multiply_values<kDim, kHeads>(shared, parity, a[next], sums[0]);
  }
}

template <int kDim, int kHeads>
__device__ __forceinline__ void clear(Output<kDim, kHeads>& o) {
#pragma unroll
  for (int i = 0; i < Shape<kDim, kHeads>::kGroupBlocks; ++i) {
#pragma unroll
    for (int j = 0; j < kHeads / 2; ++j) o[i][j] = 0.0f;
  }
}

// A place of o in a part: vector 4j … 4j + 3 of block i is the float4 part[…] of all threads of a warpgroup.
template <int kDim, int kHeads>
__device__ __forceinline__ int part_index(int thread, int i, int j) {
  using S = Shape<kDim, kHeads>;
  const int block = thread / kGroupThreads * S::kGroupBlocks + i;
  return (j * S::kDimShares + block / 2) * S::kShareThreads + block % 2 * kGroupThreads + thread % kGroupThreads;
}

template <int kDim, int kHeads>
__device__ __forceinline__ void store_part(float4* part, int thread, const Output<kDim, kHeads>& o) {
#pragma unroll
  for (int i = 0; i < Shape<kDim, kHeads>::kGroupBlocks; ++i) {
#pragma unroll
    for (int j = 0; j < kHeads / 8; ++j) {
      __stcg(part + part_index<kDim, kHeads>(thread, i, j), make_float4(o[i][4 * j], o[i][4 * j + 1], o[i][4 * j + 2], o[i][4 * j + 3]));
    }
  }
}

// o ← the part and o after it; factors of the heads in keep[0] and gain[0].
template <int kDim, int kHeads>
__device__ __forceinline__ void fold_part(const SharedMemory<kDim, kHeads>& shared, const float4* part, int thread,
                                          Output<kDim, kHeads>& o) {
#pragma unroll
  for (int j = 0; j < kHeads / 8; ++j) {
    const float2 keep = reinterpret_cast<const float2*>(shared.keep[0])[4 * j + thread % 4];
    const float2 gain = reinterpret_cast<const float2*>(shared.gain[0])[4 * j + thread % 4];
#pragma unroll
    for (int i = 0; i < Shape<kDim, kHeads>::kGroupBlocks; ++i) {
      const float4 before = __ldcg(part + part_index<kDim, kHeads>(thread, i, j));
      float* after = o[i] + 4 * j;
      after[0] = fold(before.x, after[0], keep.x, gain.x);
      after[1] = fold(before.y, after[1], keep.y, gain.y);
      after[2] = fold(before.z, after[2], keep.x, gain.x);
      after[3] = fold(before.w, after[3], keep.y, gain.y);
    }
  }
}

// Where a thread's values of block 0 go in an output buffer: of rows g and g + 8 of its warp's 16 and head 2q of eight.
struct StagePlaces {
  float* rows[2];
};

template <int kDim>
__device__ __forceinline__ StagePlaces stage_places(float* output, int thread, bool is_rotated) {
  const int lane = thread % 32, g = lane / 4, q = lane % 4, dim = thread / 32 % 4 * 16 + (is_rotated ? g : 2 * g);
  const int place = output_offset<kDim>(2 * q, dim);
  return {output + place, output + (place ^ (is_rotated ? 8 : 1))};
}

// The four values of a vector of a block: heads 2q and 2q + 1 of row g, then of row g + 8.
template <int kDim>
__device__ __forceinline__ void stage_output(const StagePlaces& places, int block, float o0, float o1, float o2, float o3) {
  places.rows[0][block * kBlockDims] = o0;
  places.rows[0][block * kBlockDims + kDim] = o1;
  places.rows[1][block * kBlockDims] = o2;
  places.rows[1][block * kBlockDims + kDim] = o3;
}
// How the parts of a shared row lie in scratch memory: of rank 0 all tiles together, of the others tile by tile; or group by group.
struct PartMap {
  int first_tiles;  // of part 0
  int num_parts;
};

__device__ __forceinline__ PartMap part_map(const Arguments& args, const Work& work) {
  if (work.num_tiles == 0) return {0, 0};
  if (!args.by_tile) return {0, work.num_groups};
  const int first_tiles = run_begin(args, work, 1);
  return {first_tiles, work.num_tiles - first_tiles + 1};
}

// Whether part `part` is the last one of group `group`.
__device__ __forceinline__ bool ends_group(const Arguments& args, const Work& work, const PartMap& map, int part, int group) {
  return !args.by_tile || map.first_tiles + part == group_begin(work, group + 1);
}

__device__ __forceinline__ Part first_part(const Arguments& args, const Work& work, int rank) {
  if (args.split == 1) return {0, group_begin(work, 1)};
  if (args.by_tile) {
    if (rank == 0) return {0, work.tile_end};
    return {work.tile_begin - run_begin(args, work, 1) + 1, work.tile_begin + 1};
  }
  const int group = (work.num_groups * rank + args.split - 1) / args.split;
  return {group, group_begin(work, group + 1)};
}

// The end of a part that is not the CTA's last word: into scratch memory, and the sums start anew. Without sharing the part is first added
// to those before it, and the last one stays in o.
template <int kDim, int kHeads>
__device__ __forceinline__ void hand_over(const Arguments& args, const WarpState& state, SharedMemory<kDim, kHeads>& shared, int thread,
                                          Output<kDim, kHeads>& o) {
  using S = Shape<kDim, kHeads>;
  const int group = thread / kGroupThreads, t = thread % kGroupThreads, head = group * S::kGroupHeads + t;
  const bool has_blocks = S::kBlocks > 1 || group == 0;
  if (args.split > 1) {
    const int64_t index = static_cast<int64_t>(state.unit) * args.max_parts + state.part.index;
    if (has_blocks) store_part<kDim, kHeads>(args.parts + index * S::kPartVectors, thread, o);
    if (t < S::kGroupHeads) {
      const PartSum sum = shared.sums[head];
      __stcg(reinterpret_cast<int2*>(args.part_sums) + index * kHeads + head, make_int2(sum.maximum, __float_as_int(sum.total)));
      shared.sums[head] = PartSum{};
    }
    clear<kDim, kHeads>(o);
    return;
  }
  ptx::named_barrier_sync(kConsumerBarrier, kConsumers);  // nobody reads the factors of the last tile any more
  if (t < S::kGroupHeads) {
    PartSum sum = shared.groups[head];
    const FoldFactors factors = fold(sum, shared.sums[head]);
    shared.groups[head] = sum;
    shared.sums[head] = PartSum{};
    shared.keep[0][head] = factors.keep;
    shared.gain[0][head] = factors.gain;
  }
  ptx::named_barrier_sync(kConsumerBarrier, kConsumers);
  float4* place = args.parts + static_cast<int64_t>(blockIdx.x) * S::kPartVectors;
  if (has_blocks && state.part.index > 0) fold_part<kDim, kHeads>(shared, place, thread, o);
  if (state.part.tile_end < state.work.num_tiles) {
    if (has_blocks) store_part<kDim, kHeads>(place, thread, o);
    clear<kDim, kHeads>(o);
  }
  ptx::named_barrier_sync(kConsumerBarrier, kConsumers);
}

// The part after the one that has been handed over.
__device__ __forceinline__ Part next_part(const Arguments& args, const Work& work, const Part& part) {
  return {part.index + 1, args.split > 1 && args.by_tile ? part.tile_end + 1 : group_begin(work, part.index + 2)};
}

// P of a tile and what its sums are added with; not known to the other warpgroup yet. Returns whether the sums before are to be rescaled,
// of the calling thread's head.
template <int kDim, int kHeads>
__device__ __forceinline__ bool prepare_tile(SharedMemory<kDim, kHeads>& shared, int thread, int step, float logit_scale) {
  using S = Shape<kDim, kHeads>;
  const int group = thread / kGroupThreads, t = thread % kGroupThreads, head = group * S::kGroupHeads + t;
  const int parity = step % 2, stage = step % kStages;
  const KeyTile<kDim>& keys = shared.tiles[stage];
  ptx::mbarrier_wait(&shared.full[stage], step / kStages & 1);
  float s[kHeads / 4];
  multiply_keys<kDim, kHeads>(shared, keys, group, s);
  find_maxima<kDim, kHeads>(shared, keys, group, parity, logit_scale, s);
  ptx::named_barrier_sync(kGroupBarrier + group, kGroupThreads);
  weigh_keys<kDim, kHeads>(shared, group, parity, s);
  bool rescales = false;
  if (t < S::kGroupHeads) {
    const FoldFactors factors = fold_factors(shared.sums[head].maximum, shared.maxima[parity][head]);
    shared.keep[parity][head] = factors.keep;
    shared.gain[parity][head] = factors.gain;
    shared.maxima[parity ^ 1][head] = kNoMaximum;  // of the tile before, which its thread alone still reads
    rescales = factors.keep != 1.0f;
  }
  ptx::fence_async_proxy();
  return rescales;
}

// Both warpgroups have prepared the tile. Returns whether a head's sums are to be rescaled.
template <int kDim, int kHeads>
__device__ __forceinline__ bool meet(SharedMemory<kDim, kHeads>& shared, int thread, int step, bool rescales) {
  using S = Shape<kDim, kHeads>;
  const int group = thread / kGroupThreads, t = thread % kGroupThreads, head = group * S::kGroupHeads + t;
  const bool any = ptx::named_barrier_or(kConsumerBarrier, kConsumers, rescales);
  if (t < S::kGroupHeads) {
    PartSum after{shared.maxima[step % 2][head], 0.0f};
#pragma unroll
    for (int warp = 0; warp < kGroupThreads / 32; ++warp) after.total += shared.warp_sums[group * (kGroupThreads / 32) + warp][t];
    PartSum sum = shared.sums[head];
    fold(sum, after);
    shared.sums[head] = sum;
  }
  return any;
}

// o and shared.sums += the tiles of a part. Warpgroup 0 prepares a tile before it multiplies the values of the one before it, warpgroup 1
// after that: so one of them keeps the tensor cores busy while the other is busy with probabilities.
template <int kDim, int kHeads>
__device__ __forceinline__ void sum_tiles(SharedMemory<kDim, kHeads>& shared, int thread, float logit_scale, int first_step, int end_step,
                                          Output<kDim, kHeads>& o) {
  using S = Shape<kDim, kHeads>;
  const int late = thread < kGroupThreads ? 1 : 0;
  bool rescales = false;
#pragma unroll 1
  for (int step = first_step; step < end_step + late; ++step) {
    thread = ptx::computed_here(thread);
    bool mine = false;
    if (step < end_step) mine = prepare_tile<kDim, kHeads>(shared, thread, step, logit_scale);
    if (late == 0) rescales = meet<kDim, kHeads>(shared, thread, step, mine);
    const int ready = step - late;
    if (ready >= first_step) {
      const int stage = ready % kStages;
      if (rescales) rescale<kDim, kHeads>(shared.keep[ready % 2], o);
      if (S::kBlocks > 1 || late == 1) add_values<kDim, kHeads>(shared, shared.tiles[stage], 1 - late, ready % 2, o);
      ptx::mbarrier_arrive(&shared.empty[stage]);
    }
    if (late == 1 && step < end_step) rescales = meet<kDim, kHeads>(shared, thread, step, mine);
  }
}

// The consumers' work on the CTA's tiles of a row; without sharing o and shared.groups are the row's sums at the end. Steps count the
// tiles that pass through shared memory.
template <int kDim, int kHeads>
__device__ __forceinline__ void consume(const Arguments& args, SharedMemory<kDim, kHeads>& shared, int thread, int first_step, int end_step,
                                        Output<kDim, kHeads>& o) {
  clear<kDim, kHeads>(o);
#pragma unroll 1
  for (int step = first_step; step < end_step;) {
    const WarpState& state = shared.warps[ptx::computed_here(thread) / 32];
    const int part_end = min(end_step, first_step + state.part.tile_end - state.work.tile_begin);
    sum_tiles<kDim, kHeads>(shared, thread, args.logit_scale, step, part_end, o);
    step = part_end;
    if (args.split == 1 && step == end_step && shared.warps[ptx::computed_here(thread) / 32].work.num_groups == 1) break;
    WarpState& after = shared.warps[ptx::computed_here(thread) / 32];
    hand_over<kDim, kHeads>(args, after, shared, ptx::computed_here(thread), o);
    __syncwarp();
    if (ptx::computed_here(thread) % 32 == 0) after.part = next_part(args, after.work, after.part);
    __syncwarp();
  }
}

// A head's weight and LSE, by its thread. `leads`: of the CTAs that know it, the one that writes the LSE.
template <int kHeads>
__device__ __forceinline__ void finish_head(const AttentionParams& params, const OutputHeads& heads, int head, const PartSum& sum,
                                            float sink, bool leads, OutputScales<kHeads>& scales) {
  const HeadSums sums = normalise(sum, sink);
  scales.weights[head] = sums.weight;
  scales.has_keys[head] = sums.has_keys;
  if (params.lse == nullptr || !leads || head >= heads.num_heads) return;
  params.lse[static_cast<int64_t>(heads.row) * params.num_heads + heads.head_begin + head] = sums.lse;
}

// The output of a row that one CTA has summed up in registers.
template <int kDim, int kHeads, AttentionOutput kOutput>
__device__ __forceinline__ void emit_row(const AttentionParams& params, const OutputHeads& heads, SharedMemory<kDim, kHeads>& shared,
                                         int thread, const Output<kDim, kHeads>& o) {
  using S = Shape<kDim, kHeads>;
  const int group = thread / kGroupThreads, t = thread % kGroupThreads, head = group * S::kGroupHeads + t;
  if (t < S::kGroupHeads) {
    PartSum sum = shared.groups[head];
    fold(sum, shared.sums[head]);  // empty where groups were handed over
    finish_head(params, heads, head, sum, shared.sinks[head], true, shared.scales);
  }
#pragma unroll 1
  for (int j = 0; j < kHeads / 8; ++j) {
    if (8 * j >= heads.num_heads) break;
    if (j == 0) ptx::named_barrier_sync(kConsumerBarrier, kConsumers);  // nobody reads P any more
    float* output = shared.output(j % 2);
    if (S::kBlocks > 1 || group == 0) {
      const StagePlaces plain = stage_places<kDim>(output, thread, false), rotated = stage_places<kDim>(output, thread, true);
      const int first_block = group * S::kGroupBlocks;
#pragma unroll
      for (int k = 0; k < kHeads / 8; ++k) {
        if (k != j) continue;
#pragma unroll
        for (int i = 0; i < S::kGroupBlocks; ++i) {
          const StagePlaces& places = is_rotated_block<kDim, kHeads>(first_block + i, i) ? rotated : plain;
          stage_output<kDim>(places, first_block + i, o[i][4 * k], o[i][4 * k + 1], o[i][4 * k + 2], o[i][4 * k + 3]);
        }
      }
    }
    ptx::named_barrier_sync(kConsumerBarrier, kConsumers);
    emit_head<kDim, kOutput>(params, heads, shared.scales, output, 8 * j + thread / 32, 0, kDim);
  }
}

// The factors of all parts of a shared row and what normalises its heads: a thread per head.
template <int kDim, int kHeads>
__device__ __forceinline__ void fold_sums(const Arguments& args, const Work& work, const PartMap& map, int unit, int rank,
                                          SharedMemory<kDim, kHeads>& shared, int head) {
  constexpr int kAtOnce = 8;
  const int2* sums = reinterpret_cast<const int2*>(args.part_sums) + static_cast<int64_t>(unit) * args.max_parts * kHeads + head;
  FoldFactors* factors = shared.part_factors() + head;
  FoldFactors* group_factors = factors + shared.kMaxParts * kHeads;
  PartSum in_group, in_row;
  int group = 0;
#pragma unroll 1
  for (int begin = 0; begin < map.num_parts; begin += kAtOnce) {
    int2 parts[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) parts[k] = __ldcg(sums + static_cast<int64_t>(min(begin + k, map.num_parts - 1)) * kHeads);
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (begin + k >= map.num_parts) break;
      factors[(begin + k) * kHeads] = fold(in_group, PartSum{parts[k].x, __int_as_float(parts[k].y)});
      if (!ends_group(args, work, map, begin + k, group)) continue;
      group_factors[group * kHeads] = fold(in_row, in_group);
      in_group = PartSum{};
      ++group;
    }
  }
  finish_head(args.params, work.heads, head, in_row, shared.sinks[head], rank == 0, shared.scales);
}

// The output of a row that the CTAs of a cluster share: each adds up every split-th share, from scratch memory.
template <int kDim, int kHeads, AttentionOutput kOutput>
__device__ __forceinline__ void emit_shares(const Arguments& args, const Work& work, int unit, SharedMemory<kDim, kHeads>& shared,
                                            int thread) {
  using S = Shape<kDim, kHeads>;
  constexpr int kAtOnce = 8;
  const int rank = cluster_rank();
  const PartMap map = part_map(args, work);
  if (thread < kHeads) fold_sums<kDim, kHeads>(args, work, map, unit, rank, shared, thread);
  ptx::named_barrier_sync(kConsumerBarrier, kConsumers);
  const FoldFactors* factors = shared.part_factors();
  const FoldFactors* group_factors = factors + shared.kMaxParts * kHeads;
  int buffer = 0;
#pragma unroll 1
  for (int share = rank; share < S::kShares; share += args.split, buffer ^= 1) {
    const int j = share / S::kDimShares, dim_share = share % S::kDimShares;
    if (8 * j >= work.heads.num_heads) break;
    if (thread < S::kShareThreads) {
      const int head = 8 * j + thread % 4 * 2;
      const float4* place = args.parts + static_cast<int64_t>(unit) * args.max_parts * S::kPartVectors + share * S::kShareThreads + thread;
      float4 in_group = make_float4(0.0f, 0.0f, 0.0f, 0.0f), in_row = in_group;
      int group = 0;
#pragma unroll 1
      for (int begin = 0; begin < map.num_parts; begin += kAtOnce) {
        float4 parts[kAtOnce];
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) {
          parts[k] = __ldcg(place + static_cast<int64_t>(min(begin + k, map.num_parts - 1)) * S::kPartVectors);
        }
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) {
          if (begin + k >= map.num_parts) break;
          fold_vectors(factors + (begin + k) * kHeads + head, parts[k], in_group);
          if (!ends_group(args, work, map, begin + k, group)) continue;
          fold_vectors(group_factors + group * kHeads + head, in_group, in_row);
          in_group = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
          ++group;
        }
      }
      const int block = dim_share * 2 + thread / kGroupThreads;
      stage_output<kDim>(stage_places<kDim>(shared.output(buffer), thread, block == S::kBlocks - 1), block, in_row.x, in_row.y, in_row.z,
                         in_row.w);
    }
    ptx::named_barrier_sync(kConsumerBarrier, kConsumers);
    emit_head<kDim, kOutput>(args.params, work.heads, shared.scales, shared.output(buffer), 8 * j + thread / 32, dim_share * 128,
                             min(dim_share * 128 + 128, kDim));
  }
}

// What the consumers keep in shared memory about a row.
template <int kDim, int kHeads>
__device__ __forceinline__ void begin_row(const Arguments& args, const Work& work, int unit, const Rotation& rotation,
                                          SharedMemory<kDim, kHeads>& shared, int thread) {
  constexpr int kGroupHeads = Shape<kDim, kHeads>::kGroupHeads;
  const int t = thread % kGroupThreads, head = thread / kGroupThreads * kGroupHeads + t;
  if (t < kGroupHeads) {
    shared.sums[head] = shared.groups[head] = PartSum{};
    shared.sinks[head] = head < work.heads.num_heads ? args.params.sink[work.heads.head_begin + head] * kLog2E : 0.0f;
  }
  if (thread % 32 == 0) shared.warps[thread / 32] = {work, first_part(args, work, cluster_rank()), unit};
  __syncwarp();
  if (thread < kRopeDim / 2) shared.scales.rotations[thread] = rotation;
}

template <int kDim, int kHeads, AttentionOutput kOutput>
__global__ void __launch_bounds__(kThreads, 1) attention_kernel(const __grid_constant__ Arguments args) {
  extern __shared__ __align__(kSwizzleAtomBytes) uint8_t memory[];
  SharedMemory<kDim, kHeads>& shared = *reinterpret_cast<SharedMemory<kDim, kHeads>*>(memory);
  const int thread = threadIdx.x;
  if (thread == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      ptx::mbarrier_init(&shared.full[stage], kTileKeys);
      ptx::mbarrier_init(&shared.empty[stage], kConsumers);
    }
    ptx::fence_barrier_init();
  }
  if (thread < kHeads) shared.maxima[0][thread] = shared.maxima[1][thread] = kNoMaximum;
  __syncthreads();
  ptx::grid_dependency_wait();
  ptx::grid_launch_dependents();

  int first_step = 0;
  if (thread >= kConsumers) {
    ptx::decrease_registers<kProducerRegisters>();
#pragma unroll 1
    for (int unit = cluster_index(); unit < args.num_units; unit += num_clusters()) {
      Work work;
      if (!find_unit<kHeads>(args, unit, cluster_rank(), work)) continue;
      produce<kDim, kHeads>(args, work, shared, thread - kConsumers, first_step);
      first_step += work.tile_end - work.tile_begin;
    }
  } else {
    ptx::increase_registers<kConsumerRegisters>();
#pragma unroll 1
    for (int unit = cluster_index(); unit < args.num_units; unit += num_clusters()) {
      Work work;
      if (!find_unit<kHeads>(args, unit, cluster_rank(), work)) {
        if (cluster_rank() == 0) write_padding(args.params, work.heads, thread, kConsumers);
        continue;
      }
      const Rotation rotation = load_queries<kDim, kHeads>(args.params, work.heads, work.position, shared, ptx::computed_here(thread));
      ptx::fence_async_proxy();
      ptx::named_barrier_sync(kConsumerBarrier, kConsumers);  // Q is there; the row before has been stored
      begin_row<kDim, kHeads>(args, work, unit, rotation, shared, ptx::computed_here(thread));
      const int end_step = first_step + work.tile_end - work.tile_begin;
      Output<kDim, kHeads> o;
      consume<kDim, kHeads>(args, shared, thread, first_step, end_step, o);
      first_step = end_step;
      const WarpState& state = shared.warps[ptx::computed_here(thread) / 32];
      if (args.split == 1) {
        emit_row<kDim, kHeads, kOutput>(args.params, state.work.heads, shared, ptx::computed_here(thread), o);
      } else {
        ptx::cluster_sync();  // the parts are there
        emit_shares<kDim, kHeads, kOutput>(args, state.work, state.unit, shared, ptx::computed_here(thread));
      }
      unit = state.unit;
    }
  }
}

// Who computes what in a launch.
struct Plan {
  int heads = kMaxHeads;  // of a CTA
  int split = 1;
  bool by_tile = false;
  int max_parts = 0;
  int num_clusters = 0;
};

constexpr int kMaxSplit = 16;
constexpr int kGpcs = 8, kGpcSms = 16;  // clusters lie within a GPC; some have two SMs more

int64_t part_bytes(int head_dim, int heads) {
  return static_cast<int64_t>(heads) * (head_dim * sizeof(float) + sizeof(PartSum));
}

// What a plan costs, in cycles of one H200 (docs/kernels/attention.md), for rows of `num_tiles` tiles; sets the plan's parts and clusters.
// Negative: the plan does not do.
double plan_cost(const AttentionParams& params, int num_sms, int num_tiles, Plan& plan) {
  const int num_units = params.batch.num_tokens * ((params.num_heads + plan.heads - 1) / plan.heads);
  const int num_groups = num_tiles > kShortTiles ? kLongGroups : 1;
  const int64_t bytes = part_bytes(params.head_dim, plan.heads);
  const double share = plan.heads / 64.0;
  const double tile_cycles = 1300 + 2300 * share, start_cycles = 4000, store_cycles = 4000 * share;
  if (plan.split == 1) {
    plan.num_clusters = num_units < num_sms ? num_units : num_sms;
    plan.max_parts = num_groups > 1 ? 1 : 0;
    if (plan.max_parts > 0) {
      const int64_t most = params.scratch_bytes / bytes;
      if (most < plan.num_clusters) plan.num_clusters = static_cast<int>(most);
    }
    if (plan.num_clusters == 0) return -1;
    const int rounds = (num_units + plan.num_clusters - 1) / plan.num_clusters;
    return rounds * (start_cycles + num_tiles * tile_cycles + (num_groups - 1) * 3 * store_cycles + 2500 * share);
  }
  plan.num_clusters = num_units;
  if (num_units > kGpcs * (kGpcSms / plan.split)) return -1;
  const int first = plan.by_tile ? (num_tiles + plan.split - 1) / plan.split : 0;
  if (plan.by_tile && num_groups > 1 && (plan.split < kLongGroups || params.head_dim != 512)) return -1;
  if (!plan.by_tile && plan.split > num_groups) return -1;
  plan.max_parts = plan.by_tile ? num_tiles - first + 1 : num_groups;
  if (num_units * plan.max_parts * bytes > params.scratch_bytes) return -1;
  const int run_tiles = plan.by_tile ? first : (num_tiles + plan.split - 1) / plan.split;
  const int run_parts = plan.by_tile ? first : (num_groups + plan.split - 1) / plan.split;
  const int num_shares = plan.heads / 8 * (params.head_dim / 128);
  const int run_shares = (num_shares + plan.split - 1) / plan.split;
  return start_cycles + run_tiles * tile_cycles + run_parts * store_cycles + 2500 + run_shares * (400 + 100.0 * plan.max_parts);
}

// The cheapest plan for the longest rows that the launch may have.
Plan make_plan(const AttentionParams& params, int num_sms) {
  int64_t num_keys = params.window;
  if (params.entries.data != nullptr) {
    const int64_t bound = static_cast<int64_t>(params.batch.page_table_stride) * params.entries.entries_per_page;
    num_keys += params.selected != nullptr ? params.num_selected : params.max_visible > 0 ? params.max_visible : bound;
  }
  const int num_tiles = static_cast<int>((num_keys + kTileKeys - 1) / kTileKeys);
  Plan best;
  double lowest = -1;
  for (int heads = kMaxHeads; heads >= (params.head_dim == 512 ? 16 : kMaxHeads); heads /= 2) {
    if (heads < kMaxHeads && params.num_heads <= heads / 2) break;  // smaller tiles of heads would be padding
    for (int split = 1; split <= kMaxSplit; ++split) {
      for (const bool by_tile : {true, false}) {
        Plan plan{heads, split, by_tile && split > 1};
        const double cost = plan_cost(params, num_sms, num_tiles, plan);
        if (cost < 0 || (lowest >= 0 && cost >= lowest)) continue;
        lowest = cost;
        best = plan;
      }
    }
  }
  if (lowest < 0) {
    fail_line("attention: %lld bytes of scratch, expected at least %lld for %lld keys", static_cast<long long>(params.scratch_bytes),
              static_cast<long long>(part_bytes(params.head_dim, kMaxHeads)), static_cast<long long>(num_keys));
  }
  return best;
}

template <int kDim, int kHeads>
void launch_attention(Context& context, const AttentionParams& params, const Plan& plan) {
  Arguments args{};
  args.params = params;
  args.ring_page_bytes = KvEntryLayout{kDim}.page_bytes(params.ring.ring_size);
  args.entry_page_bytes = params.entries.data == nullptr ? 0 : KvEntryLayout{kDim}.page_bytes(params.entries.entries_per_page);
  args.logit_scale = params.softmax_scale * kLog2E;
  const int num_head_tiles = (params.num_heads + kHeads - 1) / kHeads;
  args.num_units = params.batch.num_tokens * num_head_tiles;
  args.split = plan.split;
  args.by_tile = plan.by_tile;
  args.max_parts = plan.max_parts;
  args.parts = static_cast<float4*>(params.scratch);
  args.part_sums =
      reinterpret_cast<PartSum*>(args.parts + static_cast<int64_t>(args.num_units) * plan.max_parts * Shape<kDim, kHeads>::kPartVectors);
  args.num_head_tiles = Divisor(num_head_tiles);
  args.ring_size = Divisor(params.ring.ring_size);
  if (params.entries.data != nullptr) {
    args.ratio = Divisor(params.ratio);
    args.entries_per_page = Divisor(params.entries.entries_per_page);
  }
  LaunchConfig config;
  config.grid = dim3(static_cast<unsigned>(plan.num_clusters * plan.split));
  config.block = dim3(kThreads);
  config.shared_bytes = sizeof(SharedMemory<kDim, kHeads>);
  config.cluster_size = plan.split;
  switch (params.output) {
    case AttentionOutput::kBf16:
      return launch(context, "attention", attention_kernel<kDim, kHeads, AttentionOutput::kBf16>, config, args);
    case AttentionOutput::kFp32:
      return launch(context, "attention", attention_kernel<kDim, kHeads, AttentionOutput::kFp32>, config, args);
    case AttentionOutput::kFp8:
      return launch(context, "attention", attention_kernel<kDim, kHeads, AttentionOutput::kFp8>, config, args);
    case AttentionOutput::kFp4:
      return launch(context, "attention", attention_kernel<kDim, kHeads, AttentionOutput::kFp4>, config, args);
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
  const Plan plan = make_plan(params, context.num_sms);
  switch (params.head_dim) {
    case 64:
      return launch_attention<64, 64>(context, params, plan);
    case 128:
      return launch_attention<128, 64>(context, params, plan);
    case 256:
      return launch_attention<256, 64>(context, params, plan);
    default:
      if (plan.heads == 16) return launch_attention<512, 16>(context, params, plan);
      if (plan.heads == 32) return launch_attention<512, 32>(context, params, plan);
      return launch_attention<512, 64>(context, params, plan);
  }
}

}  // namespace dsv4::cuda
