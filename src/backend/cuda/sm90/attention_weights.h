// From logits to P (attention.cu): a tile's softmax in the registers of the warpgroup that has its logits, and the exchange of P between
// the warpgroups by way of shared memory.
#pragma once

#include "backend/cuda/block/attention_output.h"
#include "backend/cuda/block/swizzle.h"
#include "backend/cuda/ptx/convert.h"
#include "backend/cuda/ptx/exp2.h"
#include "backend/cuda/ptx/matrix.h"
#include "backend/cuda/ptx/registers.h"
#include "backend/cuda/ptx/wgmma.h"
#include "backend/cuda/sm90/attention_keys.h"

namespace dsv4::cuda {

inline constexpr int kHeadroom = 15;   // P is relative to 2^(maximum − kHeadroom)
inline constexpr int kRowBarrier = 1;  // of the consumers

// A warp's 16 heads of P of a tile, of which a thread has two, as f16 terms in the fragments of wgmma, high and low, and the sums that P is
// relative to.
struct TileWeights {
  uint32_t p[kTerms][kSteps][4];
  PartSum sums[2];
};

__device__ __forceinline__ void fence_operands(TileWeights& weights) {
#pragma unroll
  for (int i = 0; i < kTerms * kSteps * 4; ++i) ptx::wgmma_fence_operand(weights.p[i / (kSteps * 4)][i / 4 % kSteps][i % 4]);
}

// A value of all lanes of a quad.
template <class Combine>
__device__ __forceinline__ float combine_quad(float value, const Combine& combine) {
  value = combine(value, __shfl_xor_sync(0xffffffffu, value, 1));
  return combine(value, __shfl_xor_sync(0xffffffffu, value, 2));
}

// The head of row g of a thread's fragments; the other is eight further.
__device__ __forceinline__ int first_head(int thread) {
  return thread / 32 % 4 * 16 + thread % 32 / 4;
}

// Logits before `scale`, which is above 0 → P relative to the tile's own maxima, rounded up.
__device__ __forceinline__ void weigh_keys(int thread, const uint2& mask, float scale, float (&s)[kTileKeys / 2], TileWeights& weights) {
  const float kLowest = __int_as_float(0xff800000);
  if ((mask.x & mask.y) != 0xffffffffu) {
#pragma unroll
    for (int i = 0; i < kTileKeys / 2; ++i) {  // logit i is of key i / 4 · 8 + 2·(thread % 4) + i % 2
      const uint32_t word = (i < kTileKeys / 4 ? mask.x : mask.y) >> (thread % 4 * 2);
      if ((word >> (i / 4 % 4 * 8 + i % 2) & 1) == 0) s[i] = kLowest;
    }
  }
  float largest[2] = {kLowest, kLowest};
#pragma unroll
  for (int i = 0; i < kTileKeys / 2; ++i) largest[i / 2 % 2] = fmaxf(largest[i / 2 % 2], s[i]);
  float references[2], totals[2] = {0.0f, 0.0f};
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    largest[row] = combine_quad(largest[row], [](float a, float b) { return fmaxf(a, b); });
    weights.sums[row].maximum = max(__float2int_ru(largest[row] * scale), kNoMaximum + kHeadroom) - kHeadroom;
    references[row] = static_cast<float>(weights.sums[row].maximum);
  }
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {  // rows g and g + 8 of eight keys, then of the next eight
      const int row = i % 2;
      const float even = ptx::exp2_approx(fmaf(s[8 * step + 2 * i], scale, -references[row]));
      const float odd = ptx::exp2_approx(fmaf(s[8 * step + 2 * i + 1], scale, -references[row]));
      totals[row] += even + odd;
      weights.p[0][step][i] = ptx::convert_f16x2(odd, even);
      float odd_high, even_high;
      ptx::widen_f16x2(weights.p[0][step][i], odd_high, even_high);
      weights.p[1][step][i] = ptx::convert_f16x2(odd - odd_high, even - even_high);
    }
  }
#pragma unroll
  for (int row = 0; row < 2; ++row) weights.sums[row].total = combine_quad(totals[row], [](float a, float b) { return a + b; });
}

// Where a lane's row of the fragments of step 0 of P is; those of step i are there with 32·i by exclusive or.
__device__ __forceinline__ uint32_t fragment_address(const uint8_t* p, int thread) {
  const int lane = thread % 32, row = thread / 32 % 4 * 16 + lane % 16;
  return ptx::shared_address(p) + swizzled_offset(row, lane / 16);
}

__device__ __forceinline__ uint32_t fragment_address(uint32_t first, int term, int step) {
  return (ptx::computed_here(static_cast<int>(first)) ^ step * 32) + term * kBlockBytes;
}

// Stores a warp's sums, of which a quad has two heads: store(head, sum) in two of its lanes.
template <class Store>
__device__ __forceinline__ void store_sums(int thread, const TileWeights& weights, const Store& store) {
  if (thread % 4 >= 2) return;
  store(first_head(thread) + thread % 4 * 8, thread % 4 == 0 ? weights.sums[0] : weights.sums[1]);
}

template <int kDim>
__device__ __forceinline__ void store_sums(SharedMemory<kDim>& shared, int tile, int thread, const TileWeights& weights) {
  store_sums(thread, weights, [&](int head, const PartSum& sum) { shared.sums[tile][head] = sum; });
}

template <int kDim>
__device__ __forceinline__ void store_weights(SharedMemory<kDim>& shared, int thread, const TileWeights& weights) {
  const uint32_t first = fragment_address(shared.p[0], thread);
#pragma unroll
  for (int i = 0; i < kTerms * kSteps; ++i) {
    ptx::store_matrices(fragment_address(first, i / kSteps, i % kSteps), weights.p[i / kSteps][i % kSteps]);
  }
}

template <int kDim>
__device__ __forceinline__ void load_weights(const SharedMemory<kDim>& shared, int thread, TileWeights& weights) {
  const uint32_t first = fragment_address(shared.p[0], thread);
#pragma unroll
  for (int i = 0; i < kTerms * kSteps; ++i) {
    ptx::load_matrices(fragment_address(first, i / kSteps, i % kSteps), weights.p[i / kSteps][i % kSteps]);
  }
}

template <int kDim>
__device__ __forceinline__ void load_sums(const SharedMemory<kDim>& shared, int tile, int thread, TileWeights& weights) {
#pragma unroll
  for (int row = 0; row < 2; ++row) weights.sums[row] = shared.sums[tile][first_head(thread) + 8 * row];
}

// P of tile 1, which warpgroup 1 has, into shared memory in place of P of tile 0, which it then has, if it has columns. A warp has P of its
// heads to itself there but for the one of warpgroup 0.
template <int kDim>
__device__ __forceinline__ void exchange_weights(SharedMemory<kDim>& shared, int thread, uint32_t phase, bool both_have_columns,
                                                 TileWeights& weights) {
  store_sums<kDim>(shared, 1, thread, weights);
  TileWeights of_tile_0;
  if (both_have_columns) {
    ptx::mbarrier_wait(&shared.p_full[0][thread / 32 % 4], phase);
    load_weights<kDim>(shared, thread, of_tile_0);
    __syncwarp();
  }
  store_weights<kDim>(shared, thread, weights);
  ptx::mbarrier_arrive(&shared.p_full[1][thread / 32 % 4]);
  if (!both_have_columns) return;
  weights = of_tile_0;
  load_sums<kDim>(shared, 0, thread, weights);
}

}  // namespace dsv4::cuda
