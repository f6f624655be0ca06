// The products of attention (attention.cu) on wgmma: S of a tile of keys, and P·V of a tile, added to what the tiles before it gave.
#pragma once

#include "backend/cuda/block/attention_output.h"
#include "backend/cuda/block/swizzle.h"
#include "backend/cuda/ptx/copy.h"
#include "backend/cuda/ptx/registers.h"
#include "backend/cuda/ptx/wgmma.h"
#include "backend/cuda/sm90/attention_keys.h"
#include "backend/cuda/sm90/attention_weights.h"
#include "backend/cuda/sm90/attention_work.h"

namespace dsv4::cuda {

inline constexpr uint32_t kValueStep = 16 * kSwizzleRowBytes >> 4;  // descriptor units of 16 keys
inline constexpr uint32_t kDepthStep = 32 >> 4;                     // of 16 dims of a K-major operand

// Of shared memory that all lanes of a warp mean.
__device__ __forceinline__ uint64_t uniform_descriptor(const uint8_t* operand) {
  return swizzled_descriptor(ptx::uniform_word(ptx::shared_address(operand)));
}

// A descriptor `offset` units of 16 bytes further.
__device__ __forceinline__ uint64_t moved(uint64_t descriptor, uint32_t offset) {
  return (descriptor & 0xffffffff00000000u) | (static_cast<uint32_t>(descriptor) + offset);
}

template <int kCount>
__device__ __forceinline__ void fence_operands(float (&values)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) ptx::wgmma_fence_operand(values[i]);
}

// The sums of a thread's two heads, which its quad has in common.
using RowSums = PartSum[2];

// Which of the two warpgroups a thread is in.
__device__ __forceinline__ int group_of(int thread) {
  return static_cast<int>(ptx::uniform_word(thread / kGroupThreads));
}

// s [64 heads, 64 keys] = Q·Kᵀ of a tile, not scaled, as its blocks come, and which of its keys there are. The proxy fence stands here and
// not where the producers store: it would wait for the loads that they have under way.
template <int kDim>
__device__ __forceinline__ uint2 multiply_keys(SharedMemory<kDim>& shared, int tile, uint32_t phase, float (&s)[kTileKeys / 2]) {
  using U = Units<kDim>;
  constexpr int kAtOnce = U::kBlocks > 1 ? 2 : 1;
  const uint64_t q = uniform_descriptor(shared.q[0]);
  const uint64_t k = uniform_descriptor(shared.keys[tile][0]);
  fence_operands(s);
#pragma unroll
  for (int begin = 0; begin < U::kBlocks; begin += kAtOnce) {
    ptx::mbarrier_wait(&shared.full[tile][begin / 2], phase);
    ptx::fence_async_proxy();
    ptx::wgmma_fence();
#pragma unroll
    for (int i = 0; i < kAtOnce * (kBlockDims / 16); ++i) {
      const uint32_t offset = ((begin + i / 4) * kBlockBytes >> 4) + i % 4 * kDepthStep;
      ptx::wgmma_f16_ss<kTileKeys, false>(s, moved(q, offset), moved(k, offset), begin > 0 || i > 0);
    }
  }
  ptx::wgmma_commit_group();
  const uint2 mask = ptx::load_shared_pair(ptx::shared_address(&shared.key_masks[tile]));
  ptx::wgmma_wait_group<0>();
  fence_operands(s);
  return mask;
}

// The slot of the first block of a warpgroup's columns.
template <class S>
__device__ __forceinline__ int first_block(const Work& work, int group) {
  const int column = S::kIsTeam ? ptx::uniform(work.column) : 0;
  return (column * S::kGroups + group) * S::kGroupBlocks;
}

// Where the dims of vector v of a thread begin, whose first block of columns is `first_slot`.
template <int kDim>
__device__ __forceinline__ int dim_of_vector(int first_slot, int v) {
  return Units<kDim>::block_at(first_slot + v / 8) * kBlockDims + v % 8 * 8;
}

// sum [64 heads, 64 columns] ← P·V of a tile, not waited for. `values`: descriptor of the columns.
__device__ __forceinline__ void multiply_values(const TileWeights& weights, uint64_t values, float (&sum)[32]) {
  fence_operands(sum);
  ptx::wgmma_fence();
#pragma unroll
  for (int i = 0; i < kTerms * kSteps; ++i) {  // the smaller term first: sums are truncated
    ptx::wgmma_f16_rs<64, true>(sum, weights.p[1 - i / kSteps][i % kSteps], moved(values, i % kSteps * kValueStep), i > 0);
  }
  ptx::wgmma_commit_group();
}

// o · keep, where that changes anything in the warp.
template <class S>
__device__ __forceinline__ void scale_output(const FoldFactors (&factors)[2], Output<S>& o) {
  if (!ptx::any_lane(factors[0].keep != 1.0f || factors[1].keep != 1.0f)) return;
#pragma unroll
  for (int i = 0; i < S::kGroupBlocks * 32; ++i) o[i / 32][i % 32] *= factors[i / 2 % 2].keep;
}

// o += P·V of a tile for the warpgroup's columns, and the row's sums += the tile's: fold(), where a factor of 1 is left out. `values`:
// descriptor of the first block. wait(i) returns when block i is there, free(i) is called when it has been multiplied. `meanwhile`: what to
// do while the first product is under way.
template <class S, class Wait, class Free, class Meanwhile>
__device__ __forceinline__ void add_tile(uint64_t values, TileWeights& weights, RowSums& row_sums, Output<S>& o, const Wait& wait,
                                         const Free& free, const Meanwhile& meanwhile) {
  float sum[32];
  fence_operands(weights);
  wait(0);
  multiply_values(weights, values, sum);
  FoldFactors factors[2];
#pragma unroll
  for (int row = 0; row < 2; ++row) factors[row] = fold(row_sums[row], weights.sums[row]);
  scale_output<S>(factors, o);
  meanwhile();
#pragma unroll
  for (int i = 0; i < S::kGroupBlocks; ++i) {
    ptx::wgmma_wait_group<0>();
    fence_operands(sum);
    free(i);
#pragma unroll
    for (int k = 0; k < 32; ++k) o[i][k] = __fmaf_rn(sum[k], factors[k / 2 % 2].gain, o[i][k]);
    if (i + 1 < S::kGroupBlocks) {
      wait(i + 1);
      multiply_values(weights, moved(values, (i + 1) * (kBlockBytes >> 4)), sum);
    }
  }
  fence_operands(weights);
}

}  // namespace dsv4::cuda
