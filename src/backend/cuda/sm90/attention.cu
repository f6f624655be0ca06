// Core attention with sink (ops/attention.h) on wgmma, bf16 operands and fp32 sums.
//
// Work. A row of a sequence with at most 8 rows in the step (decode, drafts) × a tile of 64 heads belongs to a cluster, which cuts the
// row's keys into pieces of 128 and gives each CTA a run of pieces; a row of a longer run (prefill) belongs to one CTA. That is the row's
// own shape, so its result does not depend on the batch. A cluster takes `rows_per_cluster` rows: one where all rows are short or all are
// long, else as many as it has CTAs, the short ones together and one long one each.
//
//   keys (window ascending, then entries)   | piece 0: tile 0, tile 1 | piece 1: tile 2, tile 3 | …    64 keys a tile, FP8 as stored
//   consumer warpgroup 0                    | S of tile 0 |softmax| O += Vᵀ·P, dims   0 … 255, both tiles | …
//   consumer warpgroup 1                    | S of tile 1 |softmax| O += Vᵀ·P, dims 256 … 511, both tiles | …
//   producer warpgroup                      bulk copies of entries into 3 tiles of shared memory, ahead of their use
//
// Products. S [64 keys, 64 heads] = K·Qᵀ and O [dims, 64 heads] = Vᵀ·P: keys and values are the A operand, widened from FP8 in registers
// (block/key_tile.h); Q and P are B, in shared memory. Nothing dequantised is ever stored.
//
// Numbers. P is taken as two bf16, high and low: 17 bits, 2 products (24 bits and 3 below D = 512, where they cost little). The maximum
// that logits (in powers of two) are taken relative to is rounded up to an integer, so that every later change of it is exact. The tensor
// cores add to O where it stands, the low terms first, because they cut sums off.
//
// End. Every CTA leaves O (fp32, relative to its own maximum), maxima and sums in its shared memory; each CTA of the cluster then finishes
// a share of the heads: adds the parts in the order of the ranks, divides, rotates back, converts, stores (finish()).
//
// Budget per tile of 64 keys, D = 512: S 32 wgmma m64n64k16 = 1024 cycles, O 2 × 32 = 2048 cycles. docs/kernels/attention.md has the rest.
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

constexpr int kHeadTile = 64;
constexpr int kPieceTiles = 2;  // one per consumer warpgroup
constexpr int kStages = 3;
constexpr int kGroupThreads = 128;
constexpr int kConsumers = 2 * kGroupThreads;
constexpr int kThreads = kConsumers + kGroupThreads;
constexpr int kMaxSplitCtas = 8;  // CTAs that share the keys of a row, at most…
constexpr int kMaxSplitRows = 8;  // …whose sequence has at most so many rows in the step
constexpr int kConsumerBarrier = 1;
constexpr int kRowBarrier = 2;
constexpr int kNoMaximum = -(1 << 30);  // of a row without keys
constexpr int kProducerRegisters = 40;
constexpr int kConsumerRegisters = 232;
static_assert(kProducerRegisters + 2 * kConsumerRegisters <= 3 * 168, "more would wait for each other for ever");
constexpr uint32_t kBlockBytes = kHeadTile * kSwizzleRowBytes;     // a block of Q, one term of P of a tile
constexpr uint32_t kProbabilityStep = 16 * kSwizzleRowBytes >> 4;  // descriptor units of 16 keys
constexpr float kLog2E = 1.44269504088896340736f;
static_assert(kHeadTile == kTileKeys, "Q and P share the block size");

// Shapes that follow from head_dim.
template <int kDim>
struct Shape {
  static constexpr int kBlocks = kDim / kBlockDims;
  static constexpr int kGroupBlocks = kBlocks < 2 ? 1 : kBlocks / 2;  // blocks of O of a consumer warpgroup
  // Terms of P: 17 bits in two; small heads can afford all 24.
  static constexpr int kTerms = kDim == 512 ? 2 : 3;
};

// Whether the i-th block of a warpgroup, `block` of the head, holds the rotated dims.
template <int kDim>
__device__ __forceinline__ bool is_rotated_block(int block, int i) {
  return i == Shape<kDim>::kGroupBlocks - 1 && block == Shape<kDim>::kBlocks - 1;
}

// A warp's sum of a head's probabilities over its keys, relative to 2^maximum.
struct WarpSum {
  float value;
  int maximum;
};

template <int kDim>
struct SharedMemory {
  alignas(kSwizzleAtomBytes) uint8_t q[Shape<kDim>::kBlocks][kBlockBytes];
  alignas(kSwizzleAtomBytes) uint8_t p[kPieceTiles][Shape<kDim>::kTerms][kBlockBytes];  // terms of a tile: [64 keys, 64 heads]
  KeyTile<kDim> tiles[kStages];
  OutputPart<kDim> part;
  int places[kConsumers / 32];           // of the present row in the CTA's list, for each consumer warp
  int first_tile;                        // of the present row, counted over all tiles that passed through the stages
  alignas(16) int maxima[kHeadTile];     // of the pieces so far
  int previous[kHeadTile];               // maxima before the present piece
  int rescales[2];                       // whether a piece raises a maximum, of even and odd pieces
  alignas(16) float rescale[kHeadTile];  // what O is multiplied with before a piece's products are added
  WarpSum sums[kConsumers / 32][kHeadTile];
  uint64_t full[kStages];
  uint64_t empty[kStages];
  // O at the end, where P and the tiles were.
  __device__ float* output() { return reinterpret_cast<float*>(&p[0][0][0]); }
};
static_assert(sizeof(SharedMemory<512>) <= 227 * 1024, "the most a CTA may have on Hopper");
static_assert(sizeof(SharedMemory<512>::p) + sizeof(SharedMemory<512>::tiles) >= 64 * 512 * sizeof(float), "O takes their place");
static_assert(sizeof(SharedMemory<256>::p) + sizeof(SharedMemory<256>::tiles) >= 64 * 256 * sizeof(float));
static_assert(sizeof(SharedMemory<64>::p) + sizeof(SharedMemory<64>::tiles) >= 64 * 64 * sizeof(float));

struct Arguments {
  AttentionParams params;
  size_t ring_page_bytes;
  size_t entry_page_bytes;
  float logit_scale;  // softmax_scale·log2(e): exponentials are powers of two
  int rows_per_cluster;
  Divisor num_ranks;  // CTAs of a cluster
  Divisor num_head_tiles;
  Divisor ring_size;
  Divisor ratio;
  Divisor entries_per_page;
};

// A load that the compiler leaves where it is: loads that do not wait for each other's values are then under way together.
__device__ __forceinline__ int load_here(const int32_t* address) {
  return *static_cast<const volatile int32_t*>(address);
}

// What a CTA works on; the same in all its threads.
struct Work {
  OutputShare share;
  int position;
  int first_place;  // of the window in the ring
  int num_window, num_keys;
  int tile_begin, tile_end;
  const uint8_t* ring;        // the slot's page
  const int32_t* page_table;  // of the sequence
};

// The keys of the row, and the run of tiles of rank `rank` of `num_ranks`.
__device__ __forceinline__ void find_keys(const Arguments& args, int seq_idx, int slot, Work& work) {
  const AttentionParams& params = args.params;
  int num_window = min(work.position + 1, params.window);
  int num_entries = 0;
  if (params.entries.data != nullptr) {
    const int num_visible = args.ratio.quotient(work.position + 1);
    num_entries = params.selected == nullptr ? num_visible : min(num_visible, params.num_selected);
  }
  if (params.key_counts != nullptr) {
    num_window = max(0, min(num_window, load_here(params.key_counts + 2 * static_cast<int64_t>(work.share.row))));
    num_entries = max(0, min(num_entries, load_here(params.key_counts + 2 * static_cast<int64_t>(work.share.row) + 1)));
  }
  work.first_place = args.ring_size.remainder(work.position - num_window + 1);
  work.num_window = num_window;
  work.num_keys = num_window + num_entries;
  const int num_tiles = (work.num_keys + kTileKeys - 1) / kTileKeys;
  const int num_pieces = (num_tiles + kPieceTiles - 1) / kPieceTiles;
  work.share.num_parts = max(1, min(work.share.num_ranks, num_pieces));
  const int part = min(work.share.rank, work.share.num_parts);
  int piece_begin = 0, piece_end = num_pieces;  // of a row that is not shared
  if (num_pieces <= work.share.num_ranks) {
    piece_begin = part;
    piece_end = min(part + 1, num_pieces);
  } else if (work.share.num_ranks > 1) {
    piece_begin = args.num_ranks.quotient(num_pieces * part);
    piece_end = args.num_ranks.quotient(num_pieces * (part + 1));
  }
  work.tile_begin = min(num_tiles, piece_begin * kPieceTiles);
  work.tile_end = min(num_tiles, piece_end * kPieceTiles);
  work.ring = params.ring.data + static_cast<size_t>(slot) * args.ring_page_bytes;
  work.page_table = params.batch.page_table + static_cast<int64_t>(seq_idx) * params.batch.page_table_stride;
}

// Index of a key in its cache: the place in the ring or the entry of the sequence; −1: none.
__device__ __forceinline__ int find_entry(const AttentionParams& params, const Work& work, int key) {
  if (key >= work.num_keys) return -1;
  if (key < work.num_window) {
    const int place = work.first_place + key;
    return place < params.ring.ring_size ? place : place - params.ring.ring_size;
  }
  const int i = key - work.num_window;
  return params.selected == nullptr ? i : params.selected[static_cast<int64_t>(work.share.row) * params.num_selected + i];
}

template <int kDim>
__device__ __forceinline__ EntryPlace locate(const Arguments& args, const Work& work, int key, int entry) {
  if (entry < 0) return {nullptr, nullptr};
  constexpr KvEntryLayout kLayout{kDim};
  const AttentionParams& params = args.params;
  if (key < work.num_window)
    return {work.ring + kLayout.value_offset(entry), work.ring + kLayout.scale_offset(entry, params.ring.ring_size)};
  const int entries_per_page = params.entries.entries_per_page;
  const int page_idx = args.entries_per_page.quotient(entry);
  const uint8_t* page = params.entries.data + static_cast<size_t>(work.page_table[page_idx]) * args.entry_page_bytes;
  const int in_page = entry - page_idx * entries_per_page;
  return {page + kLayout.value_offset(in_page), page + kLayout.scale_offset(in_page, entries_per_page)};
}

// All threads that work on the row have come.
__device__ __forceinline__ void sync_row(const OutputShare& share) {
  if (share.num_ranks > 1) {
    ptx::cluster_sync();
  } else {
    ptx::named_barrier_sync(kRowBarrier, kThreads);
  }
}

// The producer warpgroup: half of it fills the even tiles, half the odd ones, a thread per key. `first_tile`: tiles of earlier rows.
template <int kDim>
__device__ __forceinline__ void produce(const Arguments& args, const Work& work, SharedMemory<kDim>& shared, int thread, int first_tile) {
  const int key = thread % kTileKeys;
  int tile = work.tile_begin + thread / kTileKeys;
  int entry = tile < work.tile_end ? find_entry(args.params, work, tile * kTileKeys + key) : -1;
  for (; tile < work.tile_end; tile += kPieceTiles) {
    const EntryPlace place = locate<kDim>(args, work, tile * kTileKeys + key, entry);
    const int step = first_tile + tile - work.tile_begin;
    const int stage = step % kStages;
    if (step >= kStages) ptx::mbarrier_wait(&shared.empty[stage], (step / kStages & 1) ^ 1);
    fill_key<kDim>(shared.tiles[stage], key, place, &shared.full[stage]);
    if (tile + kPieceTiles < work.tile_end) entry = find_entry(args.params, work, (tile + kPieceTiles) * kTileKeys + key);
  }
}

// Q [64 heads, kDim] into shared memory by the consumers, in the order of key_fragments(); rows beyond the model's heads are zeros.
template <int kDim>
__device__ __forceinline__ void load_queries(const AttentionParams& params, const OutputShare& share, SharedMemory<kDim>& shared,
                                             int thread) {
  constexpr int kItems = kHeadTile / 4 * Shape<kDim>::kBlocks / (kConsumers / 32);  // of a warp: 4 heads × a block
  constexpr int kAtOnce = kItems < 8 ? kItems : 8;
  static_assert(kItems % kAtOnce == 0);
  if (share.row >= params.batch.num_tokens) return;
  const Bf16* q = params.q + (static_cast<int64_t>(share.row) * params.num_heads + share.head_begin) * kDim;
  const int warp = thread / 32, chunk = thread % 8, head_in_group = thread % 32 / 8;
#pragma unroll 1
  for (int begin = 0; begin < kItems; begin += kAtOnce) {
    uint4 chunks[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int item = (begin + j) * (kConsumers / 32) + warp;
      const int head = item / Shape<kDim>::kBlocks * 4 + head_in_group, block = item % Shape<kDim>::kBlocks;
      chunks[j] = head < share.num_heads
                      ? *reinterpret_cast<const uint4*>(q + static_cast<int64_t>(head) * kDim + block * kBlockDims + chunk * 8)
                      : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int item = (begin + j) * (kConsumers / 32) + warp;
      const int head = item / Shape<kDim>::kBlocks * 4 + head_in_group, block = item % Shape<kDim>::kBlocks;
      const uint4 c = chunks[j];
      const uint32_t words[2][2] = {{__byte_perm(c.x, c.y, 0x5410), __byte_perm(c.x, c.y, 0x7632)},
                                    {__byte_perm(c.z, c.w, 0x5410), __byte_perm(c.z, c.w, 0x7632)}};
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
          const uint32_t offset = query_offset(2 * chunk + i, odd);
          *reinterpret_cast<uint32_t*>(shared.q[block] + swizzled_offset(head, offset / 16) + offset % 16) = words[i][odd];
        }
      }
    }
  }
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

// s[64 keys, 64 heads] = K·Qᵀ of a tile, not scaled, by a warpgroup. A block's fragments are made while the one before it is multiplied.
template <int kDim>
__device__ __forceinline__ void multiply_keys(SharedMemory<kDim>& shared, const KeyTile<kDim>& tile, float (&s)[kHeadTile / 2]) {
  Fragments a[2];
#pragma unroll
  for (int block = 0; block < Shape<kDim>::kBlocks; ++block) {
    Fragments& fragments = a[block % 2];
    key_fragments<kDim>(tile, block, fragments);
    const uint64_t q = swizzled_descriptor(ptx::shared_address(shared.q[block]));
    fence_operands(fragments);
    ptx::wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      ptx::wgmma_bf16_rs<kHeadTile, false>(s, fragments[step], q + 2 * step, block > 0 || step > 0);
    }
    ptx::wgmma_commit_group();
    if (block == 0) continue;
    ptx::wgmma_wait_group<1>();
    fence_operands(a[(block + 1) % 2]);
  }
  ptx::wgmma_wait_group<0>();
  fence_operands(a[(Shape<kDim>::kBlocks + 1) % 2]);
  fence_operands(s);
}

// 2^(from − to) for from ≤ to; 0 below 2^-126.
__device__ __forceinline__ float power_of_two(int from, int to) {
  const int exponent = from - to;
  return exponent < -126 ? 0.0f : __int_as_float((127 + exponent) << 23);
}

// Halves what each lane holds: with lane ^ kBit it exchanges one half of values[2·kCount] and keeps the other, combined.
template <int kCount, int kBit, class Combine>
__device__ __forceinline__ void exchange_half(float (&values)[16], const Combine& combine) {
  const bool upper = (threadIdx.x & kBit) != 0;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const float other = __shfl_xor_sync(0xffffffffu, upper ? values[i] : values[i + kCount], kBit);
    values[i] = combine(upper ? values[i + kCount] : values[i], other);
  }
}

// values[2j + e] of lane (g, q) belongs to head 8j + 2q + e and some keys. Returns, in lane l, the combination over all eight g of heads 2l
// and 2l + 1.
template <class Combine>
__device__ __forceinline__ float2 combine_keys(float (&values)[16], const Combine& combine) {
  exchange_half<8, 16>(values, combine);
  exchange_half<4, 8>(values, combine);
  exchange_half<2, 4>(values, combine);
  return make_float2(values[0], values[1]);
}

// The sum relative to a later maximum.
__device__ __forceinline__ float rebased_sum(const WarpSum& sum, int maximum) {
  return sum.value * power_of_two(sum.maximum, maximum);
}

// s ← the logits in powers of two, −∞ where there is no key; their maxima go to shared memory.
template <int kDim>
__device__ __forceinline__ void find_maxima(SharedMemory<kDim>& shared, const KeyTile<kDim>& tile, float scale, float (&s)[kHeadTile / 2]) {
  const int lane = threadIdx.x % 32;
  const int key = threadIdx.x / 32 % 4 * 16 + lane / 4;
  const float bias[2] = {tile.bias[key], tile.bias[key + 8]};
  float largest[16];
#pragma unroll
  for (int i = 0; i < kHeadTile / 2; ++i) s[i] = fmaf(s[i], scale, bias[i / 2 % 2]);
#pragma unroll
  for (int i = 0; i < 16; ++i) largest[i] = fmaxf(s[i / 2 * 4 + i % 2], s[i / 2 * 4 + i % 2 + 2]);
  const float2 maximum = combine_keys(largest, [](float a, float b) { return fmaxf(a, b); });
  atomicMax(&shared.maxima[2 * lane], max(__float2int_ru(maximum.x), kNoMaximum));
  atomicMax(&shared.maxima[2 * lane + 1], max(__float2int_ru(maximum.y), kNoMaximum));
}

// Logits → probabilities relative to the maxima: into shared memory as bf16 terms, and to the sums.
template <int kDim>
__device__ __forceinline__ void weigh_keys(SharedMemory<kDim>& shared, int tile_in_piece, float (&s)[kHeadTile / 2]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  const int2* maxima = reinterpret_cast<const int2*>(shared.maxima);
  constexpr int kTerms = Shape<kDim>::kTerms;
  const uint32_t terms = ptx::shared_address(shared.p[tile_in_piece]);
  const uint32_t row = warp * 16 + lane % 16;
  float totals[16];
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {  // of groups of eight heads
    uint32_t words[kTerms][4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int j = 2 * pair + i;
      const int2 maximum = maxima[4 * j + lane % 4];
      const float x = static_cast<float>(maximum.x), y = static_cast<float>(maximum.y);
      float p[4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float even = p[2 * half] = ptx::exp2_approx(s[4 * j + 2 * half] - x);
        float odd = p[2 * half + 1] = ptx::exp2_approx(s[4 * j + 2 * half + 1] - y);
#pragma unroll
        for (int term = 0; term < kTerms; ++term) {
          const uint32_t word = ptx::convert_bf16x2(odd, even);
          words[term][2 * i + half] = word;
          even -= low_to_float(word);
          odd -= high_to_float(word);
        }
      }
      totals[2 * j] = p[0] + p[2];
      totals[2 * j + 1] = p[1] + p[3];
    }
    const uint32_t place = swizzled_offset(row, 2 * pair + lane / 16);
#pragma unroll
    for (int term = 0; term < kTerms; ++term) {
      ptx::store_matrices(terms + term * kBlockBytes + place, words[term][0], words[term][1], words[term][2], words[term][3]);
    }
  }
  const float2 total = combine_keys(totals, [](float a, float b) { return a + b; });
  const int2 maximum = maxima[lane];
  WarpSum* sums = &shared.sums[threadIdx.x / 32][2 * lane];
  sums[0] = {rebased_sum(sums[0], maximum.x) + total.x, maximum.x};
  sums[1] = {rebased_sum(sums[1], maximum.y) + total.y, maximum.y};
}

// o += Vᵀ·P of a tile, for a warpgroup's blocks. A block's fragments are made while the one before it is multiplied.
template <int kDim>
__device__ __forceinline__ void add_values(SharedMemory<kDim>& shared, const KeyTile<kDim>& tile, int tile_in_piece, int group,
                                           float (&o)[Shape<kDim>::kGroupBlocks][kHeadTile / 2]) {
  using S = Shape<kDim>;
  Fragments a[2] = {};
#pragma unroll
  for (int i = 0; i < S::kGroupBlocks; ++i) {
    const int block = group * S::kGroupBlocks + i;
    Fragments& fragments = a[i % 2];
    value_fragments<kDim>(tile, block, is_rotated_block<kDim>(block, i), fragments);
    fence_operands(fragments);
    fence_operands(o[i]);
    ptx::wgmma_fence();
#pragma unroll
    for (int term = S::kTerms - 1; term >= 0; --term) {  // the smallest first: sums are truncated
      const uint64_t p = swizzled_descriptor(ptx::shared_address(shared.p[tile_in_piece][term]));
#pragma unroll
      for (int step = 0; step < 4; ++step) ptx::wgmma_bf16_rs<kHeadTile, true>(o[i], fragments[step], p + step * kProbabilityStep, true);
    }
    ptx::wgmma_commit_group();
    if (i == 0) continue;
    ptx::wgmma_wait_group<1>();
    fence_operands(a[(i + 1) % 2]);
  }
  ptx::wgmma_wait_group<0>();
  fence_operands(a[0]);
  fence_operands(a[1]);
#pragma unroll
  for (int i = 0; i < S::kGroupBlocks; ++i) fence_operands(o[i]);
}

// o ← o·rescale.
template <int kDim>
__device__ __forceinline__ void rescale_output(const SharedMemory<kDim>& shared, float (&o)[Shape<kDim>::kGroupBlocks][kHeadTile / 2]) {
  const float2* rescale = reinterpret_cast<const float2*>(shared.rescale);
#pragma unroll
  for (int j = 0; j < kHeadTile / 8; ++j) {
    const float2 factor = rescale[4 * j + threadIdx.x % 4];
#pragma unroll
    for (int i = 0; i < Shape<kDim>::kGroupBlocks; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        o[i][4 * j + 2 * half] *= factor.x;
        o[i][4 * j + 2 * half + 1] *= factor.y;
      }
    }
  }
}

// The CTA's part of O, its maxima and sums, into shared memory where P and the tiles were.
template <int kDim>
__device__ __forceinline__ void store_part(SharedMemory<kDim>& shared, int thread,
                                           const float (&o)[Shape<kDim>::kGroupBlocks][kHeadTile / 2]) {
  const int lane = thread % 32, g = lane / 4, q = lane % 4, warp = thread / 32 % 4, group = thread / kGroupThreads;
  ptx::named_barrier_sync(kConsumerBarrier, kConsumers);  // nobody reads P or tiles any more
  float* part = shared.output();
#pragma unroll
  for (int i = 0; i < Shape<kDim>::kGroupBlocks; ++i) {
    const int block = group * Shape<kDim>::kGroupBlocks + i;
    if (Shape<kDim>::kBlocks == 1 && group == 1) continue;
    const bool is_rotated = is_rotated_block<kDim>(block, i);
    // Heads 2q, 2q + 1 and every eighth from there on have the same permutation.
    const int dim = block * kBlockDims + warp * 16 + (is_rotated ? g : 2 * g);
    float* dims = part + part_offset<kDim>(2 * q, dim);
    float* upper_dims = part + part_offset<kDim>(2 * q, dim + (is_rotated ? 8 : 1));
#pragma unroll
    for (int j = 0; j < kHeadTile / 8; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        dims[(8 * j + e) * kDim] = o[i][4 * j + e];
        upper_dims[(8 * j + e) * kDim] = o[i][4 * j + 2 + e];
      }
    }
  }
  if (thread < kHeadTile) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kConsumers / 32; ++i) sum += rebased_sum(shared.sums[i][thread], shared.maxima[thread]);
    shared.part.sums[thread] = sum;
    shared.part.maxima[thread] = static_cast<float>(shared.maxima[thread]);
  }
}

// The consumers' work on the CTA's keys of a row: tiles first_tile … first_tile + num_tiles − 1 of those that pass through shared memory.
template <int kDim>
__device__ __forceinline__ void consume(SharedMemory<kDim>& shared, int thread, float logit_scale, int first_tile, int num_tiles) {
  using S = Shape<kDim>;
  const int group = thread / kGroupThreads;
  if (thread < kHeadTile) shared.maxima[thread] = shared.previous[thread] = kNoMaximum;
  for (int i = thread % 32; i < kHeadTile; i += 32) shared.sums[thread / 32][i] = {0.0f, kNoMaximum};
  if (thread == 0) shared.rescales[0] = shared.rescales[1] = 0;
  ptx::fence_async_proxy();
  ptx::named_barrier_sync(kConsumerBarrier, kConsumers);
  float o[S::kGroupBlocks][kHeadTile / 2];
#pragma unroll
  for (int i = 0; i < S::kGroupBlocks; ++i) {
#pragma unroll
    for (int j = 0; j < kHeadTile / 2; ++j) o[i][j] = 0.0f;
  }
  const int end = first_tile + num_tiles;
#pragma unroll 1
  for (int tile = first_tile; tile < end; tile += kPieceTiles) {
    const int mine = tile + group;
    const int parity = (end - tile + 1) / kPieceTiles % 2;
    float s[kHeadTile / 2];
    if (mine < end) {
      const KeyTile<kDim>& keys = shared.tiles[mine % kStages];
      ptx::mbarrier_wait(&shared.full[mine % kStages], mine / kStages & 1);
      multiply_keys<kDim>(shared, keys, s);
      find_maxima<kDim>(shared, keys, logit_scale, s);
    }
    ptx::named_barrier_sync(kConsumerBarrier, kConsumers);
    if (mine < end) weigh_keys<kDim>(shared, group, s);
    if (thread < kHeadTile) {
      const int maximum = shared.maxima[thread];
      if (maximum != shared.previous[thread] && shared.previous[thread] != kNoMaximum) shared.rescales[parity] = 1;
      shared.rescale[thread] = power_of_two(shared.previous[thread], maximum);
      shared.previous[thread] = maximum;
      if (thread == 0) shared.rescales[parity ^ 1] = 0;
    }
    ptx::fence_async_proxy();
    ptx::named_barrier_sync(kConsumerBarrier, kConsumers);
    if (shared.rescales[parity] != 0) rescale_output<kDim>(shared, o);
#pragma unroll 1
    for (int i = 0; i < kPieceTiles && tile + i < end; ++i) {
      const int stage = (tile + i) % kStages;
      ptx::mbarrier_wait(&shared.full[stage], (tile + i) / kStages & 1);
      if (S::kBlocks > 1 || group == 0) add_values<kDim>(shared, shared.tiles[stage], i, group, o);
      ptx::mbarrier_arrive(&shared.empty[stage]);
    }
  }
  store_part<kDim>(shared, ptx::computed_here(thread), o);
}

// The i-th row of this CTA's list: the rows of its cluster, which share the short ones; then again the same rows, of which every CTA has
// the long ones of its rank. num_parts is not known yet.
__device__ __forceinline__ OutputShare find_share(const Arguments& args, int i) {
  const bool alone = i >= args.rows_per_cluster;
  const int cluster = args.num_ranks.quotient(static_cast<int>(blockIdx.x)), group = args.num_head_tiles.quotient(cluster);
  OutputShare share;
  share.row = group * args.rows_per_cluster + (alone ? i - args.rows_per_cluster : i);
  share.head_begin = (cluster - group * static_cast<int>(args.num_head_tiles.value)) * kHeadTile;
  share.num_heads = min(args.params.num_heads - share.head_begin, kHeadTile);
  share.rank = alone ? 0 : static_cast<int>(ptx::cluster_rank());
  share.num_ranks = alone ? 1 : static_cast<int>(args.num_ranks.value);
  share.first_part = alone ? static_cast<int>(ptx::cluster_rank()) : 0;
  share.num_parts = 1;
  return share;
}

// Whether the i-th row of this CTA's list has keys for it; padding rows are written on the way. The same in all threads.
__device__ __forceinline__ bool find_work(const Arguments& args, int i, Work& work) {
  const AttentionParams& params = args.params;
  const bool alone = i >= args.rows_per_cluster;
  work.share = find_share(args, i);
  if (work.share.row >= params.batch.num_tokens) return false;
  if (alone && args.num_ranks.remainder(i - args.rows_per_cluster) != static_cast<int>(ptx::cluster_rank())) return false;
  work.position = load_here(params.batch.positions + work.share.row);
  const int seq_idx = load_here(params.batch.seq_idx + work.share.row);
  if (work.position < 0) {
    if (!alone) write_padding(params, work.share, kThreads);
    return false;
  }
  const int row_begin = load_here(params.batch.row_begin + seq_idx), row_end = load_here(params.batch.row_begin + seq_idx + 1);
  const int slot = load_here(params.batch.slots + seq_idx);
  if ((row_end - row_begin > kMaxSplitRows) != alone) return false;
  find_keys(args, seq_idx, slot, work);
  return true;
}

template <int kDim, AttentionOutput kOutput>
__global__ void __launch_bounds__(kThreads, 1) attention_kernel(const __grid_constant__ Arguments args) {
  extern __shared__ __align__(kSwizzleAtomBytes) uint8_t memory[];
  SharedMemory<kDim>& shared = *reinterpret_cast<SharedMemory<kDim>*>(memory);
  const int thread = threadIdx.x;
  if (thread == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      ptx::mbarrier_init(&shared.full[stage], kTileKeys);
      ptx::mbarrier_init(&shared.empty[stage], kConsumers);
    }
    ptx::fence_barrier_init();
    shared.first_tile = 0;
  }
  __syncthreads();
  ptx::grid_dependency_wait();
  ptx::grid_launch_dependents();

  const int num_rows = 2 * args.rows_per_cluster;
  if (thread >= kConsumers) {
    ptx::decrease_registers<kProducerRegisters>();
    const int producer = thread - kConsumers;
    int first_tile = 0;
#pragma unroll 1
    for (int i = 0; i < num_rows; ++i) {
      Work work;
      if (!find_work(args, i, work)) continue;
      produce<kDim>(args, work, shared, producer, first_tile);
      if (producer == 0) shared.part.num_parts = work.share.num_parts;
      __syncwarp();
      first_tile += work.tile_end - work.tile_begin;
      sync_row(work.share);  // the parts of all CTAs are there
      if (producer == 0) shared.first_tile = first_tile;
      __syncwarp();
      sync_row(work.share);  // all of them have been read
    }
  } else {
    ptx::increase_registers<kConsumerRegisters>();
#pragma unroll 1
    for (int i = 0; i < num_rows; ++i) {
      Work work;
      load_queries<kDim>(args.params, find_share(args, i), shared,
                         ptx::computed_here(thread));  // before it is known whether the row is this CTA's
      if (!find_work(args, i, work)) continue;
      // While the first keys are on their way: what the end needs.
      if (thread < kRopeDim / 2) shared.part.rotations[thread] = rope_rotation(work.position, args.params.freqs[thread]);
      if (thread < work.share.num_heads) shared.part.sinks[thread] = args.params.sink[work.share.head_begin + thread] * kLog2E;
      if (thread % 32 == 0) shared.places[thread / 32] = i;  // the main loop needs every register
      consume<kDim>(shared, thread, args.logit_scale, shared.first_tile, work.tile_end - work.tile_begin);
      i = shared.places[thread / 32];
      OutputShare share = find_share(args, i);  // anew: the registers were needed for O
      sync_row(share);
      share.num_parts = shared.part.num_parts;
      weigh_parts<kDim>(args.params, share, shared.part, ptx::computed_here(thread), kConsumers);
      ptx::named_barrier_sync(kConsumerBarrier, kConsumers);
      finish<kDim, kOutput>(args.params, share, shared.output(), shared.part, ptx::computed_here(thread), kConsumers / 32);
      ptx::fence_async_proxy();  // the next row's bulk copies come after these accesses
      sync_row(share);
    }
  }
}

// CTAs for a row that is split: as few as have no longer runs of pieces than the most CTAs would have for the layer's longest list.
int num_split_ctas(const AttentionParams& params) {
  if (params.entries.data != nullptr && params.selected == nullptr) return kMaxSplitCtas;
  const int num_keys = params.window + (params.entries.data == nullptr ? 0 : params.num_selected);
  constexpr int kPieceKeys = kPieceTiles * kTileKeys;
  const int num_pieces = (num_keys + kPieceKeys - 1) / kPieceKeys;
  const int longest_run = (num_pieces + kMaxSplitCtas - 1) / kMaxSplitCtas;
  return (num_pieces + longest_run - 1) / longest_run;
}

template <int kDim>
void launch_attention(Context& context, const AttentionParams& params) {
  Arguments args{};
  args.params = params;
  args.ring_page_bytes = KvEntryLayout{kDim}.page_bytes(params.ring.ring_size);
  args.entry_page_bytes = params.entries.data == nullptr ? 0 : KvEntryLayout{kDim}.page_bytes(params.entries.entries_per_page);
  args.logit_scale = params.softmax_scale * kLog2E;
  const int num_head_tiles = (params.num_heads + kHeadTile - 1) / kHeadTile;
  const bool all_long = params.min_new_tokens > kMaxSplitRows;
  const bool all_short = params.max_new_tokens > 0 && params.max_new_tokens <= kMaxSplitRows;
  LaunchConfig config;
  config.block = dim3(kThreads);
  config.shared_bytes = sizeof(SharedMemory<kDim>);
  config.cluster_size = all_long ? 1 : num_split_ctas(params);
  args.rows_per_cluster = all_short ? 1 : config.cluster_size;
  args.num_ranks = Divisor(config.cluster_size);
  args.num_head_tiles = Divisor(num_head_tiles);
  args.ring_size = Divisor(params.ring.ring_size);
  if (params.entries.data != nullptr) {
    args.ratio = Divisor(params.ratio);
    args.entries_per_page = Divisor(params.entries.entries_per_page);
  }
  const int num_groups = (params.batch.num_tokens + args.rows_per_cluster - 1) / args.rows_per_cluster;
  config.grid = dim3(static_cast<unsigned>(num_groups) * static_cast<unsigned>(num_head_tiles * config.cluster_size));
  switch (params.output) {
    case AttentionOutput::kBf16:
      return launch(context, "attention", attention_kernel<kDim, AttentionOutput::kBf16>, config, args);
    case AttentionOutput::kFp32:
      return launch(context, "attention", attention_kernel<kDim, AttentionOutput::kFp32>, config, args);
    case AttentionOutput::kFp8:
      return launch(context, "attention", attention_kernel<kDim, AttentionOutput::kFp8>, config, args);
    case AttentionOutput::kFp4:
      return launch(context, "attention", attention_kernel<kDim, AttentionOutput::kFp4>, config, args);
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
