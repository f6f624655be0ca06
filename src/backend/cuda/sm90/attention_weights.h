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

inline constexpr int kHeadroom = 15;  // P is relative to 2^(maximum − kHeadroom)
// Of the consumers. kOrderBarrier: S of tile 0 is computed; kReadBarrier + g: the other warpgroup than g has read P of tile 1;
// kStoredBarrier: warpgroup 1 has stored its output of the row before; of a warp of either warpgroup, which have the same heads:
// kTileBarrier + 4·t + warp: P of tile t is in shared memory.
inline constexpr int kRowBarrier = 1, kOrderBarrier = 2, kReadBarrier = 3, kStoredBarrier = 5, kTileBarrier = 6;

// The sums of a thread's two heads, which its quad has in common, a lane a word of them.
class QuadSums {
 public:
  __device__ __forceinline__ PartSum of(int row) const {
    return {__shfl_sync(0xffffffffu, word_, 2 * row, 4), __int_as_float(__shfl_sync(0xffffffffu, word_, 2 * row + 1, 4))};
  }
  __device__ __forceinline__ void set(const PartSum (&sums)[2]) {
    const int i = ptx::thread_here() % 4;
    const PartSum& sum = sums[0];
    const int first = i == 0 ? sum.maximum : __float_as_int(sum.total);
    const int second = i == 2 ? sums[1].maximum : __float_as_int(sums[1].total);
    word_ = i < 2 ? first : second;
  }

 private:
  int word_;
};

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

// Logits, not scaled → P relative to the tile's own maxima, rounded up.
template <int kDim>
__device__ __forceinline__ void weigh_keys(const SharedMemory<kDim>& shared, int thread, int tile, float scale, float (&s)[kTileKeys / 2],
                                           TileWeights& weights) {
  const float2* bias = reinterpret_cast<const float2*>(shared.bias[tile]) + thread % 4;
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
    largest[row] = combine_quad(largest[row], [](float a, float b) { return fmaxf(a, b); });
    weights.sums[row].maximum = max(__float2int_ru(largest[row]), kNoMaximum + kHeadroom) - kHeadroom;
    references[row] = static_cast<float>(weights.sums[row].maximum);
  }
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {  // rows g and g + 8 of eight keys, then of the next eight
      const int row = i % 2;
      const float even = ptx::exp2_approx(s[8 * step + 2 * i] - references[row]);
      const float odd = ptx::exp2_approx(s[8 * step + 2 * i + 1] - references[row]);
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

// Where a lane's row of the fragments of step `step` of P is.
__device__ __forceinline__ uint32_t fragment_address(const uint8_t* p, int thread, int step) {
  const int lane = thread % 32, row = thread / 32 % 4 * 16 + lane % 16;
  return ptx::shared_address(p) + swizzled_offset(row, 2 * step + lane / 16);
}

template <int kDim>
__device__ __forceinline__ void store_weights(SharedMemory<kDim>& shared, int thread, const TileWeights& weights) {
#pragma unroll
  for (int i = 0; i < kTerms * kSteps; ++i) {
    ptx::store_matrices(fragment_address(shared.p[i / kSteps], thread, i % kSteps), weights.p[i / kSteps][i % kSteps]);
  }
  if (thread % 4 < 2) {
    shared.sums[first_head(thread) + thread % 4 * 8] = thread % 4 == 0 ? weights.sums[0] : weights.sums[1];
  }
}

template <int kDim>
__device__ __forceinline__ void load_weights(const SharedMemory<kDim>& shared, int thread, TileWeights& weights) {
#pragma unroll
  for (int i = 0; i < kTerms * kSteps; ++i) {
    ptx::load_matrices(fragment_address(shared.p[i / kSteps], thread, i % kSteps), weights.p[i / kSteps][i % kSteps]);
  }
#pragma unroll
  for (int row = 0; row < 2; ++row) weights.sums[row] = shared.sums[first_head(thread) + 8 * row];
}

// The barrier of the thread's warp and the warp of the other warpgroup that has the same heads.
__device__ __forceinline__ int tile_barrier(int tile, int thread) {
  return kTileBarrier + 4 * tile + thread / 32 % 4;
}

// P of tile 0, which warpgroup 0 has, in either warpgroup, and P of tile 1, which warpgroup 1 had, in shared memory. A warp has P of its
// heads to itself there but for the one of the other warpgroup, and changes one for the other in its place.
template <int kDim>
__device__ __forceinline__ void exchange_weights(SharedMemory<kDim>& shared, int thread, int group, bool both_have_columns,
                                                 TileWeights& weights) {
  if (group == 0) {
    if (!both_have_columns) return;
    store_weights<kDim>(shared, thread, weights);
    ptx::named_barrier_arrive(tile_barrier(0, thread), 64);
    return;
  }
  if (both_have_columns) {
    TileWeights of_tile_0;
    ptx::named_barrier_sync(tile_barrier(0, thread), 64);
    load_weights<kDim>(shared, thread, of_tile_0);
    __syncwarp();
    store_weights<kDim>(shared, thread, weights);
    weights = of_tile_0;
  } else {
    store_weights<kDim>(shared, thread, weights);
  }
  ptx::named_barrier_arrive(tile_barrier(1, thread), 64);
}

}  // namespace dsv4::cuda
