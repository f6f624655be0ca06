// Products of several weight matrices with the same or different activations in one launch: what linear_fp8, linear_bf16, linear_fp32 and
// grouped_linear share. Tile plan and pipeline: block/gemm.h.
#pragma once

#include <cstdint>

#include "backend/cuda/block/gemm.h"
#include "backend/cuda/ptx/cluster.h"
#include "backend/cuda/ptx/grid.h"
#include "backend/cuda/runtime/launch.h"

namespace dsv4::cuda {

inline constexpr int kMaxSegments = 8;

// One weight matrix of a launch.
struct LinearSegment {
  Product product;
  bool out_fp32;
  const uint8_t* tiles;   // block/weight_tiles.h
  const uint8_t* scales;  // FP8: ue8m0 [⌈rows/128⌉, num_blocks]
  const uint8_t* x;       // bf16 [num_tokens, x_row_bytes]
  void* out;              // [num_tokens, rows], bf16 or fp32
  uint32_t x_row_bytes;
  uint32_t group_row_tiles;     // grouped: row tiles that read the same columns of x; 0: all
  uint32_t group_column_bytes;  // and the distance of those columns
  int rows;
  int num_blocks;
  int first_row_tile;  // of 128 rows, within the launch
  float out_scale;     // bf16 output: out = bf(bf(sum)·out_scale) unless 1
};

struct LinearArguments {
  LinearSegment segments[kMaxSegments];
  int num_segments;
  int num_tokens;
  int num_token_tiles;
};

// Sum of a token's partial results over the cluster, in rank order: rows 4·lane … 4·lane + 3.
template <class Shared>
__device__ __forceinline__ float4 cluster_partial_sum(Shared& shared, int column, int num_ranks) {
  const float* own = shared.partial() + column * kPartialPitch + 4 * (threadIdx.x % 32);
  if (num_ranks == 1) return *reinterpret_cast<const float4*>(own);
  float4 sum = ptx::load_cluster_float4(ptx::map_shared(own, 0));
  for (int rank = 1; rank < num_ranks; ++rank) {
    const float4 part = ptx::load_cluster_float4(ptx::map_shared(own, rank));
    sum = {sum.x + part.x, sum.y + part.y, sum.z + part.z, sum.w + part.w};
  }
  return sum;
}

// Launches the segments (sm90/linear_fp8.cu); fills in their first_row_tile.
void launch_linear(Context& context, const char* op, LinearArguments& arguments);

}  // namespace dsv4::cuda
