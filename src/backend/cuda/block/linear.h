// Products of several weight matrices with the same or different activations in one launch: what linear_fp8, linear_bf16, linear_fp32 and
// grouped_linear share. Tile plan and pipeline: block/gemm.h.
#pragma once

#include <cstdint>

#include "backend/cuda/block/gemm.h"
#include "backend/cuda/ptx/cluster.h"
#include "backend/cuda/ptx/grid.h"
#include "backend/cuda/runtime/launch.h"
#include "backend/cuda/tune/linear.h"

namespace dsv4::cuda {

inline constexpr int kMaxSegments = 8;

// One weight matrix of a launch.
struct LinearSegment {
  Product product;
  bool out_fp32;
  const uint8_t* tiles;     // block/weight_tiles.h
  const uint8_t* scales;    // FP8: ue8m0 [⌈rows/128⌉, num_blocks]
  const uint8_t* x;         // [num_tokens, x_row_bytes]
  const uint8_t* x_scales;  // FP8 activations: [num_tokens, num_blocks]
  void* out;                // [num_tokens, rows], bf16 or fp32
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

// Four neighbouring outputs of one token; `rows` of the matrix may end among them.
__device__ __forceinline__ void store_linear(const LinearSegment& segment, int token, int row, float4 sum) {
  if (row >= segment.rows) return;
  const int64_t offset = int64_t{token} * segment.rows + row;
  if (segment.out_fp32) {
    float* out = static_cast<float*>(segment.out) + offset;
    if (segment.rows % 4 == 0) {
      *reinterpret_cast<float4*>(out) = sum;
      return;
    }
    const float values[4] = {sum.x, sum.y, sum.z, sum.w};
    for (int i = 0; i < 4 && row + i < segment.rows; ++i) out[i] = values[i];
    return;
  }
  if (segment.out_scale != 1.0f) {
    sum = {round_to_bf16(sum.x) * segment.out_scale, round_to_bf16(sum.y) * segment.out_scale, round_to_bf16(sum.z) * segment.out_scale,
           round_to_bf16(sum.w) * segment.out_scale};
  }
  Bf16* out = static_cast<Bf16*>(segment.out) + offset;
  if (segment.rows % 4 == 0) {
    *reinterpret_cast<uint2*>(out) = {ptx::convert_bf16x2(sum.y, sum.x), ptx::convert_bf16x2(sum.w, sum.z)};
    return;
  }
  const float values[4] = {sum.x, sum.y, sum.z, sum.w};
  for (int i = 0; i < 4 && row + i < segment.rows; ++i) out[i] = float_to_bf16(values[i]);
}

// This CTA's part of a segment.
__device__ __forceinline__ GemmOperands linear_operands(const LinearSegment& segment, int row_tile, int rank, int num_ranks, int subtiles) {
  const int blocks_per_rank = (segment.num_blocks + num_ranks - 1) / num_ranks;
  const int first = min(rank * blocks_per_rank, segment.num_blocks);
  const size_t tile_row_bytes = static_cast<size_t>(segment.num_blocks) * kTileBytes;
  const uint8_t* tiles = segment.tiles + 2 * row_tile * tile_row_bytes + static_cast<size_t>(first) * kTileBytes;
  GemmOperands operands;
  operands.tiles[0] = tiles;
  operands.tiles[1] = row_tile * kGemmRows + 64 < segment.rows ? tiles + tile_row_bytes : nullptr;
  operands.weight_scales[0] = operands.weight_scales[1] =
      segment.scales != nullptr ? segment.scales + static_cast<size_t>(row_tile) * segment.num_blocks + first : nullptr;
  const size_t group_offset =
      segment.group_row_tiles > 0 ? static_cast<size_t>(row_tile / segment.group_row_tiles) * segment.group_column_bytes : 0;
  operands.x = segment.x + group_offset + static_cast<size_t>(first) * subtiles * 128;
  operands.x_scales = segment.x_scales != nullptr ? segment.x_scales + first : nullptr;
  operands.x_row_bytes = segment.x_row_bytes;
  operands.x_scale_row_bytes = segment.num_blocks;
  operands.num_blocks = min(blocks_per_rank, segment.num_blocks - first);
  return operands;
}

// Grid: (row tile, token tile, rank), rank fastest, row tile slowest, so that CTAs that share weights run together. kGrouped: all segments
// are kFp8ByBf16, else each is kFp8 or kBf16.
template <int kTokens, bool kGrouped>
__global__ __launch_bounds__(kGemmThreads, kTokens <= 32 ? 2 : 1) void linear_kernel(const __grid_constant__ LinearArguments arguments) {
  constexpr int kSubtiles = kGrouped ? gemm_subtiles(Product::kFp8ByBf16) : 1;
  extern __shared__ uint8_t memory[];
  auto& shared = gemm_shared<kTokens, kSubtiles>(memory);
  const int num_ranks = static_cast<int>(ptx::cluster_size());
  const int rank = static_cast<int>(ptx::cluster_rank());
  const int item = static_cast<int>(blockIdx.x) / num_ranks;
  const int launch_row_tile = item / arguments.num_token_tiles;
  const int first_token = item % arguments.num_token_tiles * kTokens;
  int segment_idx = 0;
  while (segment_idx + 1 < arguments.num_segments && launch_row_tile >= arguments.segments[segment_idx + 1].first_row_tile) ++segment_idx;
  const LinearSegment& segment = arguments.segments[segment_idx];
  const int row_tile = launch_row_tile - segment.first_row_tile;
  const GemmOperands operands = linear_operands(segment, row_tile, rank, num_ranks, kSubtiles);
  const int num_tokens = arguments.num_tokens;
  const auto row_of = [=](int column) { return first_token + column < num_tokens ? first_token + column : -1; };

  gemm_init(shared);
  if (threadIdx.x >= kGemmConsumers) {
    if constexpr (kTokens > 32) ptx::decrease_registers<kProducerRegisters>();
    gemm_prefetch(shared, operands, kTileBytes);
    ptx::grid_dependency_wait();
    ptx::grid_launch_dependents();
    gemm_produce<kTokens, kSubtiles>(shared, operands, kTileBytes, row_of, true);
  } else {
    if constexpr (kTokens > 32) ptx::increase_registers<kConsumerRegisters>();
    ptx::grid_dependency_wait();
    ptx::grid_launch_dependents();
    gemm_load_scales<kTokens, kSubtiles>(shared, operands, row_of);
    float total[kTokens / 2];
    if constexpr (kGrouped) {
      gemm_consume<Product::kFp8ByBf16, kTokens, kSubtiles>(shared, operands.num_blocks, total);
    } else if (segment.product == Product::kFp8) {
      gemm_consume<Product::kFp8, kTokens, kSubtiles>(shared, operands.num_blocks, total);
    } else {
      gemm_consume<Product::kBf16, kTokens, kSubtiles>(shared, operands.num_blocks, total);
    }
    gemm_store_partial<kTokens, kSubtiles>(shared, total);
  }
  if (num_ranks > 1) ptx::cluster_sync();
  if (threadIdx.x < kGemmConsumers) {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int row = row_tile * kGemmRows + 4 * static_cast<int>(threadIdx.x % 32);
    for (int column = rank + num_ranks * warp; column < kTokens; column += num_ranks * (kGemmConsumers / 32)) {
      const int token = row_of(column);
      if (token >= 0) store_linear(segment, token, row, cluster_partial_sum(shared, column, num_ranks));
    }
  }
  if (num_ranks > 1) ptx::cluster_sync();  // others may still read this CTA's sums
}

template <int kTokens, bool kGrouped>
void launch_linear_tile(Context& context, const char* op, LinearArguments& arguments, int num_row_tiles, int splits) {
  arguments.num_token_tiles = (arguments.num_tokens + kTokens - 1) / kTokens;
  const unsigned num_ctas = static_cast<unsigned>(num_row_tiles) * static_cast<unsigned>(arguments.num_token_tiles * splits);
  constexpr int kSubtiles = kGrouped ? gemm_subtiles(Product::kFp8ByBf16) : 1;
  launch(context, op, linear_kernel<kTokens, kGrouped>,
         {dim3(num_ctas), dim3(kGemmThreads), gemm_shared_bytes<kTokens, kSubtiles>(), splits}, arguments);
}

// Launches the segments; fills in their first_row_tile.
template <bool kGrouped>
void launch_linear(Context& context, const char* op, LinearArguments& arguments) {
  if (arguments.num_tokens == 0 || arguments.num_segments == 0) return;
  int num_row_tiles = 0, max_blocks = 0;
  for (int i = 0; i < arguments.num_segments; ++i) {
    LinearSegment& segment = arguments.segments[i];
    segment.first_row_tile = num_row_tiles;
    num_row_tiles += (segment.rows + kGemmRows - 1) / kGemmRows;
    max_blocks = max_blocks > segment.num_blocks ? max_blocks : segment.num_blocks;
    if (static_cast<uint64_t>(arguments.num_tokens) * segment.x_row_bytes > UINT32_MAX) {
      fail_line("%s: %d tokens of %u bytes, expected at most 4 GiB", op, arguments.num_tokens, segment.x_row_bytes);
    }
  }
  const LinearTune tune = tune_linear(num_row_tiles, max_blocks, arguments.num_tokens, context.num_sms);
  switch (tune.tokens_per_tile) {
    case 8:
      return launch_linear_tile<8, kGrouped>(context, op, arguments, num_row_tiles, tune.splits);
    case 32:
      return launch_linear_tile<32, kGrouped>(context, op, arguments, num_row_tiles, tune.splits);
    case 64:
      return launch_linear_tile<64, kGrouped>(context, op, arguments, num_row_tiles, tune.splits);
    default:
      return launch_linear_tile<128, kGrouped>(context, op, arguments, num_row_tiles, tune.splits);
  }
}

}  // namespace dsv4::cuda
