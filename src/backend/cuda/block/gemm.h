// Products of weights and activations on Hopper tensor cores: the main loop that all of them share.
//
// D[128 weight rows, kTokens] = W·Xᵀ: weights are the M side of wgmma, tokens the N side, so that one kernel serves one token and
// thousands. What a token's column gets does not depend on kTokens or on the other columns: the K blocks of a CTA are summed in ascending
// order, the split of K over a cluster is chosen from the weight's shape alone.
//
//   producer warpgroup (threads 256 … 383)         consumer warpgroups 0 and 1 (threads 0 … 255), 64 weight rows each
//   bulk copy of 2 weight tiles (block/weight_tiles.h)   full[s]: fragments of A from the tile to registers (decoded there)
//   cp.async of kTokens activation rows, swizzled  ->    4 or 8 wgmma, B = activations in shared memory
//   empty[s] <-                                          fp32 promotion with the scales, once per K block
//
// A stage is one K block: 128 values of FP8 or FP4 weights, 64 of bf16. FP8 sums are promoted every 128 of K: the tensor cores' FP8
// accumulators keep about 14 bits.
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

// How the operands of a product are stored and multiplied.
enum class Product : uint8_t {
  kFp8,        // e4m3 tiles with a scale per 128 rows × 128 of K; e4m3 activations
  kFp4,        // e2m1 tiles with a scale per row and 32 of K; e4m3 activations
  kBf16,       // bf16 tiles; bf16 activations
  kFp8ByBf16,  // e4m3 tiles as in kFp8, multiplied as bf16; bf16 activations
};

inline constexpr int kGemmRows = 128;          // weight rows of a CTA
inline constexpr int kGemmConsumers = 256;     // threads that multiply
inline constexpr int kGemmThreads = 384;       // and those that load
inline constexpr int kGemmMaxBlocks = 64;      // K blocks with scales that a CTA can take
inline constexpr int kProducerRegisters = 56;  // of 65,536 for 384 threads: 56 + 2·224 per triple
inline constexpr int kConsumerRegisters = 224;
inline constexpr int kPartialPitch = kGemmRows + 4;  // floats from one token's sums to the next: no bank conflicts

// 128-byte column groups of an activation row that one K block reads.
constexpr int gemm_subtiles(Product product) {
  return product == Product::kFp8ByBf16 ? 2 : 1;
}

// What one CTA multiplies: `num_blocks` K blocks from the first of its share on.
struct GemmOperands {
  const uint8_t* tiles[2];          // the consumers' tiles of the first K block; further blocks follow; nullptr: no rows
  const uint8_t* weight_scales[2];  // kFp8, kFp8ByBf16: ue8m0 of each K block
  const uint8_t* x;                 // activations, row 0, first K block
  const uint8_t* x_scales;          // kFp8, kFp4: ue8m0, row 0, first K block
  uint32_t x_row_bytes;
  uint32_t x_scale_row_bytes;
  int num_blocks;
};

constexpr int gemm_stages(int num_tokens, int subtiles) {
  const int stage_bytes = 2 * kTileBytes + num_tokens * subtiles * 128;
  return num_tokens <= 32 ? 102 * 1024 / stage_bytes : 200 * 1024 / stage_bytes;
}

template <int kTokens, int kSubtiles>
struct GemmShared {
  static constexpr int kStages = gemm_stages(kTokens, kSubtiles);
  alignas(1024) uint8_t x[kStages][kSubtiles][kTokens * 128];
  alignas(128) uint8_t tiles[kStages][2][kTileBytes];
  uint64_t full[kStages];
  uint64_t empty[kStages];
  uint64_t fp4_table[16];  // e4m3 codes of the eight e2m1 magnitudes times 2^(6 − i)
  float weight_scales[2][kGemmMaxBlocks];
  alignas(16) uint8_t x_scales[kGemmMaxBlocks][kTokens];
  float amax[kTokens];

  // Sums [kTokens][kPartialPitch] of the finished main loop, where the stages were.
  __device__ float* partial() { return reinterpret_cast<float*>(&x[0][0][0]); }
  static_assert(sizeof(float) * kTokens * kPartialPitch <= kStages * (2 * kTileBytes + kSubtiles * kTokens * 128));
};

// Dynamic shared memory of a kernel with this layout; its base is aligned by hand.
template <int kTokens, int kSubtiles>
constexpr size_t gemm_shared_bytes() {
  return sizeof(GemmShared<kTokens, kSubtiles>) + 1024;
}

template <int kTokens, int kSubtiles>
__device__ __forceinline__ GemmShared<kTokens, kSubtiles>& gemm_shared(uint8_t* memory) {
  const uint32_t address = ptx::shared_address(memory);
  return *reinterpret_cast<GemmShared<kTokens, kSubtiles>*>(memory + ((1024 - address % 1024) % 1024));
}

// e4m3 codes of the e2m1 magnitudes 0, ½, 1, 1½, 2, 3, 4, 6 times 2^(6 − shift), exact for shifts up to 14 (spec 3.5); code 0 in the low
// byte.
__device__ __forceinline__ uint64_t fp4_magnitudes_as_e4m3(int shift) {
  const float unit = exp2f(static_cast<float>(6 - shift));
  const uint32_t low = ptx::convert_e4m3x2(0.5f * unit, 0.0f) | static_cast<uint32_t>(ptx::convert_e4m3x2(1.5f * unit, unit)) << 16;
  const uint32_t high = ptx::convert_e4m3x2(3.0f * unit, 2.0f * unit) | static_cast<uint32_t>(ptx::convert_e4m3x2(6.0f * unit, 4.0f * unit))
                                                                            << 16;
  return static_cast<uint64_t>(high) << 32 | low;
}

// Barriers and the FP4 table; every thread of the CTA calls it.
template <class Shared>
__device__ __forceinline__ void gemm_init(Shared& shared) {
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < Shared::kStages; ++stage) {
      ptx::mbarrier_init(&shared.full[stage], 128 + 1);               // every loading thread, and the bulk copies' bytes
      ptx::mbarrier_init(&shared.empty[stage], kGemmConsumers / 32);  // every consumer warp
    }
    ptx::fence_barrier_init();
  }
  if (threadIdx.x >= 32 && threadIdx.x < 48) shared.fp4_table[threadIdx.x - 32] = fp4_magnitudes_as_e4m3(threadIdx.x - 32);
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

// The producer warpgroup. `row_of(i)`: activation row of column i, or −1: zeros. `prefetched`: gemm_prefetch was called.
template <int kTokens, int kSubtiles, class RowOf>
__device__ __forceinline__ void gemm_produce(GemmShared<kTokens, kSubtiles>& shared, const GemmOperands& operands, uint32_t tile_bytes,
                                             const RowOf& row_of, bool prefetched) {
  using Shared = GemmShared<kTokens, kSubtiles>;
  constexpr int kRowsAtOnce = 16;  // 8 threads copy the 128 bytes of a row
  constexpr int kRowsPerThread = (kTokens + kRowsAtOnce - 1) / kRowsAtOnce;
  const int thread = static_cast<int>(threadIdx.x) - kGemmConsumers;
  const int chunk = thread % 8;
  constexpr uint32_t kNoRow = 0xffffffffu;
  uint32_t offsets[kRowsPerThread];
#pragma unroll
  for (int i = 0; i < kRowsPerThread; ++i) {
    const int column = thread / 8 + i * kRowsAtOnce;
    const int row = column < kTokens ? row_of(column) : -1;
    offsets[i] = row >= 0 ? static_cast<uint32_t>(row) * operands.x_row_bytes + chunk * 16 : kNoRow;
  }
  for (int block = 0; block < operands.num_blocks; ++block) {
    const int stage = block % Shared::kStages;
    if (block >= Shared::kStages) ptx::mbarrier_wait(&shared.empty[stage], (block / Shared::kStages - 1) & 1);
    if (thread == 0 && !(prefetched && block < Shared::kStages)) load_tiles(shared, operands, tile_bytes, block, stage);
#pragma unroll
    for (int subtile = 0; subtile < kSubtiles; ++subtile) {
      const uint8_t* source = operands.x + static_cast<size_t>(block) * kSubtiles * 128 + subtile * 128;
      const uint32_t tile = ptx::shared_address(shared.x[stage][subtile]);
#pragma unroll
      for (int i = 0; i < kRowsPerThread; ++i) {
        const int column = thread / 8 + i * kRowsAtOnce;
        const bool valid = offsets[i] != kNoRow;
        if (column < kTokens) {
          ptx::async_load_16(tile + swizzled_offset(column, chunk), source + (valid ? offsets[i] : 0), valid);
        }
      }
    }
    ptx::async_load_arrive(&shared.full[stage]);
  }
  __syncwarp();
}

// Scales of this CTA's activations and weights; called by the consumers before gemm_consume. Ends with a barrier among them.
template <int kTokens, int kSubtiles, class RowOf>
__device__ __forceinline__ void gemm_load_scales(GemmShared<kTokens, kSubtiles>& shared, const GemmOperands& operands,
                                                 const RowOf& row_of) {
  const int thread = static_cast<int>(threadIdx.x);
  if (operands.weight_scales[0] != nullptr) {
    for (int block = thread; block < operands.num_blocks; block += kGemmConsumers) {
      shared.weight_scales[0][block] = scale_to_float(operands.weight_scales[0][block]);
      shared.weight_scales[1][block] = scale_to_float(operands.weight_scales[1][block]);
    }
  }
  if (operands.x_scales != nullptr) {
    for (int i = thread; i < kTokens * operands.num_blocks; i += kGemmConsumers) {
      const int column = i / operands.num_blocks;
      const int block = i % operands.num_blocks;
      const int row = row_of(column);
      shared.x_scales[block][column] = row >= 0 ? operands.x_scales[static_cast<size_t>(row) * operands.x_scale_row_bytes + block] : 127;
    }
  }
  ptx::named_barrier_sync(1, kGemmConsumers);
}

// Fragments of A of one e2m1 tile: decoded exactly to e4m3 with one scale per row (spec 3.5). scale[0]: row g, scale[1]: row g + 8.
__device__ __forceinline__ void decode_fp4_tile(const uint8_t* tile, const uint64_t* table, uint32_t (&a)[4][4], float (&scale)[2]) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32 % 4;
  const uint4* words = reinterpret_cast<const uint4*>(tile) + warp * 64 + lane;
  const uint4 first = words[0], second = words[32];
  const uint32_t packed[4][2] = {{first.x, first.y}, {first.z, first.w}, {second.x, second.y}, {second.z, second.w}};
  const uint32_t* scales = reinterpret_cast<const uint32_t*>(tile + kFp4TileCodeBytes) + 16 * warp + lane / 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint32_t codes = scales[8 * half];
    const uint32_t pairs = __vmaxu4(codes, codes >> 16);
    const uint32_t largest = max(pairs & 0xff, pairs >> 8 & 0xff);
    scale[half] = scale_to_float(largest) * 0x1p-6f;
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      const uint64_t magnitudes = table[(largest - (codes >> (8 * step) & 0xff)) & 15];
      const uint32_t low = static_cast<uint32_t>(magnitudes), high = static_cast<uint32_t>(magnitudes >> 32);
      const uint32_t word = packed[step][half];
      a[step][half] = __byte_perm(low, high, word & 0x7777) | (word << 4 & 0x80808080u);
      a[step][half + 2] = __byte_perm(low, high, word >> 16 & 0x7777) | (word & 0x80808080u);
    }
  }
}

// total += acc · weight scale · activation scale; weight[0], weight[1]: of rows g and g + 8.
template <int kTokens>
__device__ __forceinline__ void promote_scaled(float (&total)[kTokens / 2], const float (&acc)[kTokens / 2], const uint8_t* x_scales,
                                               const float (&weight)[2]) {
  const int quad = threadIdx.x % 4;
#pragma unroll
  for (int j = 0; j < kTokens / 8; ++j) {
    const uint32_t codes = *reinterpret_cast<const uint16_t*>(x_scales + 8 * j + 2 * quad);
    const float even = scale_to_float(codes & 0xff), odd = scale_to_float(codes >> 8);
    total[4 * j] += acc[4 * j] * (weight[0] * even);
    total[4 * j + 1] += acc[4 * j + 1] * (weight[0] * odd);
    total[4 * j + 2] += acc[4 * j + 2] * (weight[1] * even);
    total[4 * j + 3] += acc[4 * j + 3] * (weight[1] * odd);
  }
}

template <int kCount>
__device__ __forceinline__ void fence_accumulators(float (&acc)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) ptx::wgmma_fence_operand(acc[i]);
}

// One consumer warpgroup: its 64 rows of the product into total[].
template <Product kProduct, int kTokens, int kSubtiles>
__device__ __forceinline__ void gemm_consume(GemmShared<kTokens, kSubtiles>& shared, int num_blocks, float (&total)[kTokens / 2]) {
  using Shared = GemmShared<kTokens, kSubtiles>;
  constexpr int kPromoteBlocks = 4;  // bf16: K blocks that the tensor cores sum by themselves
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32 % 4;
  const int warpgroup = threadIdx.x / 128;
  float acc[kTokens / 2];
#pragma unroll
  for (int i = 0; i < kTokens / 2; ++i) total[i] = acc[i] = 0.0f;

  for (int block = 0; block < num_blocks; ++block) {
    const int stage = block % Shared::kStages;
    ptx::mbarrier_wait(&shared.full[stage], block / Shared::kStages & 1);
    ptx::fence_async_proxy();  // the activations came by ordinary writes
    const uint8_t* tile = shared.tiles[stage][warpgroup];
    const uint64_t x = swizzled_descriptor(ptx::shared_address(shared.x[stage][0]));
    uint32_t a[4][4];
    float weight_scale[2];
    if constexpr (kProduct == Product::kFp4) {
      decode_fp4_tile(tile, shared.fp4_table, a, weight_scale);
    } else {
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        const uint4 words = reinterpret_cast<const uint4*>(tile)[(warp * 4 + step) * 32 + lane];
        a[step][0] = words.x;
        a[step][1] = words.y;
        a[step][2] = words.z;
        a[step][3] = words.w;
      }
    }
    if constexpr (kProduct == Product::kFp8ByBf16) {
      uint32_t wide[8][4];
#pragma unroll
      for (int step = 0; step < 8; ++step) {
        uint32_t pair[2];
        e4m3x4_to_bf16(a[step / 2][step % 2 * 2], pair);
        wide[step][0] = pair[0];
        wide[step][1] = pair[1];
        e4m3x4_to_bf16(a[step / 2][step % 2 * 2 + 1], pair);
        wide[step][2] = pair[0];
        wide[step][3] = pair[1];
      }
      fence_accumulators(acc);
      ptx::wgmma_fence();
#pragma unroll
      for (int step = 0; step < 8; ++step) {
        const uint64_t column = swizzled_descriptor(ptx::shared_address(shared.x[stage][step / 4])) + 2 * (step % 4);
        ptx::wgmma_bf16_rs<kTokens, false>(acc, wide[step], column, step > 0);
      }
    } else {
      fence_accumulators(acc);
      ptx::wgmma_fence();
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        if constexpr (kProduct == Product::kBf16) {
          ptx::wgmma_bf16_rs<kTokens, false>(acc, a[step], x + 2 * step, step > 0 || block % kPromoteBlocks > 0);
        } else {
          ptx::wgmma_e4m3_rs<kTokens>(acc, a[step], x + 2 * step, step > 0);
        }
      }
    }
    ptx::wgmma_commit_group();
    ptx::wgmma_wait_group<0>();
    fence_accumulators(acc);
    __syncwarp();
    if (lane == 0) ptx::mbarrier_arrive(&shared.empty[stage]);

    if constexpr (kProduct == Product::kBf16) {
      if (block % kPromoteBlocks != kPromoteBlocks - 1 && block + 1 != num_blocks) continue;
#pragma unroll
      for (int i = 0; i < kTokens / 2; ++i) total[i] += acc[i];
    } else if constexpr (kProduct == Product::kFp8ByBf16) {
      const float scale = shared.weight_scales[warpgroup][block];
#pragma unroll
      for (int i = 0; i < kTokens / 2; ++i) total[i] += acc[i] * scale;
    } else {
      if constexpr (kProduct == Product::kFp8) weight_scale[0] = weight_scale[1] = shared.weight_scales[warpgroup][block];
      promote_scaled<kTokens>(total, acc, shared.x_scales[block], weight_scale);
    }
  }
}

// Puts a consumer's sums where the epilogue finds them: partial()[column·kPartialPitch + row]. Ends with a barrier among the consumers.
template <int kTokens, int kSubtiles>
__device__ __forceinline__ void gemm_store_partial(GemmShared<kTokens, kSubtiles>& shared, const float (&total)[kTokens / 2]) {
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
