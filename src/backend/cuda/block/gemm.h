// Products of weights and activations on Hopper tensor cores: the main loop that all of them share.
//
// D[128 weight rows, kTokens] = W·Xᵀ: weights are the M side of wgmma, tokens the N side, so that one kernel serves one token and
// thousands. What a token's column gets does not depend on kTokens or on the other columns: the K blocks of a CTA are summed in ascending
// order, the split of K over a cluster is chosen from the weight's shape alone.
//
//   producer warpgroup (threads 256 … 383)               consumer warpgroups 0 and 1 (threads 0 … 255), 64 weight rows each
//   bulk copy of 2 weight tiles (block/weight_tiles.h)   full[s]: A from the tile to registers, FP8 and FP4 widened to bf16 there
//   cp.async of kTokens bf16 rows, 128-byte swizzled ->  4 or 8 wgmma, B = activations in shared memory
//   empty[s] <-                                          fp32 promotion with the weight's scale
//
// A stage is one K block: 128 values of FP8 or FP4 weights, 64 of bf16. FP8 and FP4 operands are multiplied as bf16, which holds their
// values times their scales exactly: the tensor cores' FP8 sums keep about 14 bits, and the codes that flip behind them cost a layer more
// than the golden files allow (docs/negative_results.md).
#pragma once

#include <cstdint>

#include "backend/cuda/block/formats.h"
#include "backend/cuda/block/swizzle.h"
#include "backend/cuda/block/weight_tiles.h"
#include "backend/cuda/ptx/copy.h"
#include "backend/cuda/ptx/mbarrier.h"
#include "backend/cuda/ptx/registers.h"
#include "backend/cuda/ptx/wgmma.h"

namespace dsv4::cuda {

// How the weights of a product are stored; activations are bf16.
enum class Product : uint8_t {
  kFp8,   // e4m3 tiles with a scale per 128 rows × 128 of K
  kFp4,   // e2m1 tiles with a scale per row and 32 of K
  kBf16,  // bf16 tiles
};

inline constexpr int kGemmRows = 128;       // weight rows of a CTA
inline constexpr int kGemmConsumers = 256;  // threads that multiply
inline constexpr int kGemmThreads = 384;    // and those that load
inline constexpr int kGemmMaxBlocks = 64;   // K blocks with scales that a CTA can take
inline constexpr int kGemmSubtiles = 2;     // 128-byte column groups of bf16 activations in a stage
// Registers per thread of each role. A kernel of 384 threads starts with 168 each; asking for more in all hangs it.
inline constexpr int kProducerRegisters = 56;
inline constexpr int kConsumerRegisters = 224;
static_assert(kProducerRegisters + 2 * kConsumerRegisters <= 3 * 168);
inline constexpr int kPartialPitch = kGemmRows + 4;  // floats from one token's sums to the next: no bank conflicts

// What one CTA multiplies: `num_blocks` K blocks from the first of its share on.
struct GemmOperands {
  const uint8_t* tiles[2];          // the consumers' tiles of the first K block; further blocks follow; nullptr: no rows
  const uint8_t* weight_scales[2];  // kFp8: ue8m0 of each K block
  const uint8_t* x;                 // activations, row 0, first K block
  uint32_t x_row_bytes;             // num_rows · x_row_bytes stays below 4 GiB
  int num_blocks;
};

constexpr int gemm_stage_bytes(int num_tokens) {
  return 2 * kTileBytes + kGemmSubtiles * num_tokens * 128;
}

// Of few tokens' kernels two CTAs share a multiprocessor; the others need its registers for themselves.
constexpr int gemm_ctas_per_sm(int num_tokens) {
  return num_tokens == 8 ? 2 : 1;
}

template <int kTokens>
struct GemmShared {
  static constexpr int kStages = (gemm_ctas_per_sm(kTokens) == 2 ? 102 : 200) * 1024 / gemm_stage_bytes(kTokens);
  // Threads that load one K block's activations, 8 per row at a time; groups of them take turns with the blocks.
  static constexpr int kLoadThreads = kTokens < 16 ? kTokens * 8 : 128;
  static constexpr int kLoadGroups = 128 / kLoadThreads;

  alignas(1024) uint8_t x[kStages][kGemmSubtiles][kTokens * 128];
  alignas(128) uint8_t tiles[kStages][2][kTileBytes];
  uint64_t full[kStages];
  uint64_t empty[kStages];
  float weight_scales[2][kGemmMaxBlocks];
  float amax[kTokens];

  // Sums [kTokens][kPartialPitch] of the finished main loop, where the stages were.
  __device__ float* partial() { return reinterpret_cast<float*>(&x[0][0][0]); }
  static_assert(sizeof(float) * kTokens * kPartialPitch <= kStages * gemm_stage_bytes(kTokens));
};

// Dynamic shared memory of a kernel with this layout; its base is aligned by hand.
template <int kTokens>
constexpr size_t gemm_shared_bytes() {
  return sizeof(GemmShared<kTokens>) + 1024;
}

template <int kTokens>
__device__ __forceinline__ GemmShared<kTokens>& gemm_shared(uint8_t* memory) {
  const uint32_t address = ptx::shared_address(memory);
  return *reinterpret_cast<GemmShared<kTokens>*>(memory + ((1024 - address % 1024) % 1024));
}

// Every thread of the CTA calls it.
template <class Shared>
__device__ __forceinline__ void gemm_init(Shared& shared) {
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < Shared::kStages; ++stage) {
      ptx::mbarrier_init(&shared.full[stage], Shared::kLoadThreads + 1);  // the loading threads, and the bulk copies' bytes
      ptx::mbarrier_init(&shared.empty[stage], kGemmConsumers);
    }
    ptx::fence_barrier_init();
  }
  __syncthreads();
}

// Weight tiles of one K block; called by one thread.
template <class Shared>
__device__ __forceinline__ void load_tiles(Shared& shared, const GemmOperands& operands, uint32_t tile_bytes, int block, int stage) {
  const size_t offset = static_cast<size_t>(block) * tile_bytes;
  const bool both = operands.tiles[1] != nullptr;
  ptx::mbarrier_arrive_expect_tx(&shared.full[stage], both ? 2 * tile_bytes : tile_bytes);
  ptx::bulk_load_streaming(shared.tiles[stage][0], operands.tiles[0] + offset, tile_bytes, &shared.full[stage]);
  if (both) ptx::bulk_load_streaming(shared.tiles[stage][1], operands.tiles[1] + offset, tile_bytes, &shared.full[stage]);
}

// The producer warpgroup's first part, before grid_dependency_wait(): weights do not depend on other kernels.
template <class Shared>
__device__ __forceinline__ void gemm_prefetch(Shared& shared, const GemmOperands& operands, uint32_t tile_bytes) {
  if (threadIdx.x != kGemmConsumers) return;
  for (int block = 0; block < Shared::kStages && block < operands.num_blocks; ++block) {
    load_tiles(shared, operands, tile_bytes, block, block);
  }
}

// A producer thread's share of a K block: chunk `chunk` of kRows rows.
template <int kTokens>
struct ProducerRows {
  static constexpr int kRowsAtOnce = GemmShared<kTokens>::kLoadThreads / 8;
  static constexpr int kRows = kTokens / kRowsAtOnce;
  static constexpr uint32_t kNone = 0xffffffffu;
  uint32_t offsets[kRows];  // of the chunk in the first K block, bytes from operands.x; kNone: no row
  int first;                // column of the first one; the others follow at a distance of kRowsAtOnce
  int chunk;                // which 16 of a row's 128 bytes
};

template <int kTokens, class RowOf>
__device__ __forceinline__ ProducerRows<kTokens> producer_rows(const GemmOperands& operands, const RowOf& row_of) {
  const int thread = static_cast<int>(threadIdx.x) % GemmShared<kTokens>::kLoadThreads;
  ProducerRows<kTokens> mine;
  mine.first = thread / 8;
  mine.chunk = thread % 8;
#pragma unroll
  for (int i = 0; i < ProducerRows<kTokens>::kRows; ++i) {
    const int row = row_of(mine.first + i * ProducerRows<kTokens>::kRowsAtOnce);
    mine.offsets[i] = row < 0 ? ProducerRows<kTokens>::kNone : static_cast<uint32_t>(row) * operands.x_row_bytes + mine.chunk * 16;
  }
  return mine;
}

// Waits until a stage is free, and fills its weight tiles unless gemm_prefetch did.
template <class Shared>
__device__ __forceinline__ void enter_stage(Shared& shared, const GemmOperands& operands, uint32_t tile_bytes, int block, bool prefetched) {
  const int stage = block % Shared::kStages;
  if (block >= Shared::kStages) ptx::mbarrier_wait(&shared.empty[stage], (block / Shared::kStages - 1) & 1);
  const bool leader = threadIdx.x % Shared::kLoadThreads == 0;
  if (leader && !(prefetched && block < Shared::kStages)) load_tiles(shared, operands, tile_bytes, block, stage);
}

// The producer warpgroup: weight tiles, and kSubtiles·64 columns of the activations per K block. `row_of(i)`: activation row of column i,
// or −1: zeros. `prefetched`: gemm_prefetch was called.
template <int kSubtiles, int kTokens, class RowOf>
__device__ __forceinline__ void gemm_produce(GemmShared<kTokens>& shared, const GemmOperands& operands, uint32_t tile_bytes,
                                             const RowOf& row_of, bool prefetched) {
  using Shared = GemmShared<kTokens>;
  const ProducerRows<kTokens> mine = producer_rows<kTokens>(operands, row_of);
  const int group = (static_cast<int>(threadIdx.x) - kGemmConsumers) / Shared::kLoadThreads;
  for (int block = group; block < operands.num_blocks; block += Shared::kLoadGroups) {
    const int stage = block % Shared::kStages;
    enter_stage(shared, operands, tile_bytes, block, prefetched);
#pragma unroll
    for (int subtile = 0; subtile < kSubtiles; ++subtile) {
      const uint8_t* source = operands.x + (static_cast<size_t>(block) * kSubtiles + subtile) * 128;
      const uint32_t tile = ptx::shared_address(shared.x[stage][subtile]);
#pragma unroll
      for (int i = 0; i < ProducerRows<kTokens>::kRows; ++i) {
        const int column = mine.first + i * ProducerRows<kTokens>::kRowsAtOnce;
        const bool valid = mine.offsets[i] != ProducerRows<kTokens>::kNone;
        ptx::async_load_16(tile + swizzled_offset(column, mine.chunk), source + (valid ? mine.offsets[i] : 0), valid);
      }
    }
    ptx::async_load_arrive(&shared.full[stage]);
  }
  __syncwarp();
}

// Scales of this CTA's weights; called by the consumers before gemm_consume. Ends with a barrier among them.
template <int kTokens>
__device__ __forceinline__ void gemm_load_scales(GemmShared<kTokens>& shared, const GemmOperands& operands) {
  if (operands.weight_scales[0] != nullptr) {
    for (int block = static_cast<int>(threadIdx.x); block < operands.num_blocks; block += kGemmConsumers) {
      shared.weight_scales[0][block] = scale_to_float(operands.weight_scales[0][block]);
      shared.weight_scales[1][block] = scale_to_float(operands.weight_scales[1][block]);
    }
  }
  ptx::named_barrier_sync(1, kGemmConsumers);
}

// Fragments of A, bf16, of the eight k16 steps of a tile of 128 columns.
using WideFragments = uint32_t[8][4];

// Of a kFp8Tile, without its scale.
__device__ __forceinline__ void widen_fp8_tile(const uint8_t* tile, WideFragments& a) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32 % 4;
#pragma unroll
  for (int chunk = 0; chunk < 4; ++chunk) {
    const uint4 codes = reinterpret_cast<const uint4*>(tile)[(warp * 4 + chunk) * 32 + lane];
    const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      uint32_t pair[2];
      e4m3x4_to_bf16(words[i], pair);
      a[2 * chunk + i / 2][i % 2 * 2] = pair[0];
      a[2 * chunk + i / 2][i % 2 * 2 + 1] = pair[1];
    }
  }
}

// Of a kFp4Tile: e2m1 times its scale, exact. The bytes of the eight magnitudes' bf16 are looked up by byte permutation.
__device__ __forceinline__ void widen_fp4_tile(const uint8_t* tile, WideFragments& a) {
  constexpr uint32_t kHighBytes[2] = {0x3f3f3f00u, 0x40404040u};  // of 0, ½, 1, 1½ and of 2, 3, 4, 6
  constexpr uint32_t kLowBytes[2] = {0xc0800000u, 0xc0804000u};
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32 % 4;
  const uint4* words = reinterpret_cast<const uint4*>(tile) + warp * 64 + lane;
  const uint4 first = words[0], second = words[32];
  const uint32_t packed[4][2] = {{first.x, first.y}, {first.z, first.w}, {second.x, second.y}, {second.z, second.w}};
  const uint32_t* scales = reinterpret_cast<const uint32_t*>(tile + kFp4TileCodeBytes) + 16 * warp + lane / 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {  // rows g and g + 8
    const uint32_t codes = scales[8 * half];
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      const uint32_t factor = bf16_scale_pair(codes >> (8 * step) & 0xff);
      const uint32_t word = packed[step][half];
#pragma unroll
      for (int part = 0; part < 2; ++part) {  // k16 steps
        const uint32_t magnitudes = (part == 0 ? word : word >> 16) & 0x7777u;
        const uint32_t signs = (part == 0 ? word << 4 : word) & 0x80808080u;
        const uint32_t high = __byte_perm(kHighBytes[0], kHighBytes[1], magnitudes) | signs;
        const uint32_t low = __byte_perm(kLowBytes[0], kLowBytes[1], magnitudes);
        a[2 * step + part][half] = multiply_bf16x2(__byte_perm(low, high, 0x5140), factor);
        a[2 * step + part][half + 2] = multiply_bf16x2(__byte_perm(low, high, 0x7362), factor);
      }
    }
  }
}

template <int kCount>
__device__ __forceinline__ void fence_accumulators(float (&acc)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) ptx::wgmma_fence_operand(acc[i]);
}

// One consumer warpgroup: its 64 rows of the product into total[].
template <Product kProduct, int kTokens>
__device__ __forceinline__ void gemm_consume(GemmShared<kTokens>& shared, int num_blocks, float (&total)[kTokens / 2]) {
  using Shared = GemmShared<kTokens>;
  // K blocks that the tensor cores sum by themselves: 256 of K where no scale is left to apply.
  constexpr int kPromoteBlocks = kProduct == Product::kBf16 ? 4 : (kProduct == Product::kFp4 ? 2 : 1);
  constexpr int kSteps = kProduct == Product::kBf16 ? 4 : 8;
  const int lane = threadIdx.x % 32;
  const int warpgroup = threadIdx.x / 128;
  float acc[kTokens / 2];
#pragma unroll
  for (int i = 0; i < kTokens / 2; ++i) total[i] = acc[i] = 0.0f;

  for (int block = 0; block < num_blocks; ++block) {
    const int stage = block % Shared::kStages;
    ptx::mbarrier_wait(&shared.full[stage], block / Shared::kStages & 1);
    ptx::fence_async_proxy();  // cp.async writes are ordinary ones
    const uint8_t* tile = shared.tiles[stage][warpgroup];
    uint32_t a[kSteps][4];
    if constexpr (kProduct == Product::kFp4) {
      widen_fp4_tile(tile, a);
    } else if constexpr (kProduct == Product::kBf16) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        const uint4 words = reinterpret_cast<const uint4*>(tile)[(threadIdx.x / 32 % 4 * 4 + step) * 32 + lane];
        a[step][0] = words.x;
        a[step][1] = words.y;
        a[step][2] = words.z;
        a[step][3] = words.w;
      }
    } else {
      widen_fp8_tile(tile, a);
    }
    fence_accumulators(acc);
    ptx::wgmma_fence();
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const uint64_t x = swizzled_descriptor(ptx::shared_address(shared.x[stage][step / 4])) + 2 * (step % 4);
      ptx::wgmma_bf16_rs<kTokens, false>(acc, a[step], x, step > 0 || block % kPromoteBlocks > 0);
    }
    ptx::wgmma_commit_group();
    ptx::wgmma_wait_group<0>();
    fence_accumulators(acc);
    ptx::mbarrier_arrive(&shared.empty[stage]);

    if (block % kPromoteBlocks != kPromoteBlocks - 1 && block + 1 != num_blocks) continue;
    const float scale = kProduct == Product::kFp8 ? shared.weight_scales[warpgroup][block] : 1.0f;
#pragma unroll
    for (int i = 0; i < kTokens / 2; ++i) total[i] += acc[i] * scale;
  }
}

// Puts a consumer's sums where the epilogue finds them: partial()[column·kPartialPitch + row]. Ends with a barrier among the consumers.
template <int kTokens>
__device__ __forceinline__ void gemm_store_partial(GemmShared<kTokens>& shared, const float (&total)[kTokens / 2]) {
  const int lane = threadIdx.x % 32;
  const int row = static_cast<int>(threadIdx.x) / 32 * 16 + lane / 4;
  float* partial = shared.partial();
  ptx::named_barrier_sync(1, kGemmConsumers);  // both warpgroups have left the stages
#pragma unroll
  for (int j = 0; j < kTokens / 8; ++j) {
    float* column = partial + (8 * j + 2 * (lane % 4)) * kPartialPitch + row;
    column[0] = total[4 * j];
    column[kPartialPitch] = total[4 * j + 1];
    column[8] = total[4 * j + 2];
    column[kPartialPitch + 8] = total[4 * j + 3];
  }
  ptx::named_barrier_sync(1, kGemmConsumers);
}

}  // namespace dsv4::cuda
