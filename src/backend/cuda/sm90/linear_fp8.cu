// Linear layers on Hopper: linear_fp8 and the group of products of one input (ops/groups.h). One launch for all matrices: their 128-row
// tiles stand one after the other in the grid (block/linear.h, docs/kernels/linear.md).
#include "backend/cuda/block/linear.h"
#include "backend/cuda/ops.h"
#include "backend/cuda/tune/linear.h"

namespace dsv4::cuda {
namespace {

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
__device__ __forceinline__ GemmOperands linear_operands(const LinearSegment& segment, int row_tile, int rank, int num_ranks) {
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
  const size_t block_bytes = segment.product == Product::kFp8 ? 256 : 128;
  operands.x = segment.x + group_offset + first * block_bytes;
  operands.x_row_bytes = segment.x_row_bytes;
  operands.num_blocks = min(blocks_per_rank, segment.num_blocks - first);
  return operands;
}

// Grid: (row tile, token tile, rank), rank fastest, row tile slowest, so that CTAs that share weights run together.
template <int kTokens>
__global__ __launch_bounds__(kGemmThreads,
                             gemm_ctas_per_sm(kTokens)) void linear_kernel(const __grid_constant__ LinearArguments arguments) {
  extern __shared__ uint8_t memory[];
  auto& shared = gemm_shared<kTokens>(memory);
  const int num_ranks = static_cast<int>(ptx::cluster_size());
  const int rank = static_cast<int>(ptx::cluster_rank());
  const int item = static_cast<int>(blockIdx.x) / num_ranks;
  const int launch_row_tile = item / arguments.num_token_tiles;
  const int first_token = item % arguments.num_token_tiles * kTokens;
  int segment_idx = 0;
  while (segment_idx + 1 < arguments.num_segments && launch_row_tile >= arguments.segments[segment_idx + 1].first_row_tile) ++segment_idx;
  const LinearSegment& segment = arguments.segments[segment_idx];
  const int row_tile = launch_row_tile - segment.first_row_tile;
  const GemmOperands operands = linear_operands(segment, row_tile, rank, num_ranks);
  const int num_tokens = arguments.num_tokens;
  const auto row_of = [=](int column) { return first_token + column < num_tokens ? first_token + column : -1; };

  gemm_init(shared);
  if (threadIdx.x >= kGemmConsumers) {
    if constexpr (gemm_ctas_per_sm(kTokens) == 1) ptx::decrease_registers<kProducerRegisters>();
    gemm_prefetch(shared, operands, kTileBytes);
    ptx::grid_dependency_wait();
    ptx::grid_launch_dependents();
    if (segment.product == Product::kFp8) {
      gemm_produce<2>(shared, operands, kTileBytes, row_of, true);
    } else {
      gemm_produce<1>(shared, operands, kTileBytes, row_of, true);
    }
  } else {
    if constexpr (gemm_ctas_per_sm(kTokens) == 1) ptx::increase_registers<kConsumerRegisters>();
    ptx::grid_dependency_wait();
    ptx::grid_launch_dependents();
    gemm_load_scales(shared, operands);
    float total[kTokens / 2];
    if (segment.product == Product::kFp8) {
      gemm_consume<Product::kFp8, kTokens>(shared, operands.num_blocks, total);
    } else {
      gemm_consume<Product::kBf16, kTokens>(shared, operands.num_blocks, total);
    }
    gemm_store_partial<kTokens>(shared, total);
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

template <int kTokens>
void launch_linear_tile(Context& context, const char* op, LinearArguments& arguments, int num_row_tiles, int splits) {
  arguments.num_token_tiles = (arguments.num_tokens + kTokens - 1) / kTokens;
  const unsigned num_ctas = static_cast<unsigned>(num_row_tiles) * static_cast<unsigned>(arguments.num_token_tiles * splits);
  launch(context, op, linear_kernel<kTokens>, {dim3(num_ctas), dim3(kGemmThreads), gemm_shared_bytes<kTokens>(), splits}, arguments);
}

LinearSegment fp8_segment(const LinearFp8Params& params) {
  if (params.weight.cols % 128 != 0) fail_line("linear_fp8: %d input features, expected a multiple of 128", params.weight.cols);
  LinearSegment segment{};
  segment.product = Product::kFp8;
  segment.tiles = params.weight.codes;
  segment.scales = params.weight.scales;
  if (params.x.values == nullptr && params.num_tokens > 0) fail_line("linear_fp8: activations without values");
  segment.x = reinterpret_cast<const uint8_t*>(params.x.values);
  segment.out = params.out;
  segment.x_row_bytes = static_cast<uint32_t>(params.weight.cols) * sizeof(Bf16);
  segment.rows = params.weight.rows;
  segment.num_blocks = params.weight.cols / 128;
  segment.out_scale = 1.0f;
  return segment;
}

LinearSegment bf16_segment(const Bf16* x, const Bf16Weight& weight, void* out) {
  if (weight.cols % 64 != 0) fail_line("linear_bf16: %d input features, expected a multiple of 64", weight.cols);
  LinearSegment segment{};
  segment.product = Product::kBf16;
  segment.tiles = reinterpret_cast<const uint8_t*>(weight.data);
  segment.x = reinterpret_cast<const uint8_t*>(x);
  segment.out = out;
  segment.x_row_bytes = static_cast<uint32_t>(weight.cols) * sizeof(Bf16);
  segment.rows = weight.rows;
  segment.num_blocks = weight.cols / 64;
  segment.out_scale = 1.0f;
  return segment;
}

}  // namespace

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
  if (max_blocks > tune.splits * kGemmMaxBlocks) {
    fail_line("%s: %d blocks of input features, expected at most %d", op, max_blocks, tune.splits * kGemmMaxBlocks);
  }
  switch (tune.tokens_per_tile) {
    case 8:
      return launch_linear_tile<8>(context, op, arguments, num_row_tiles, tune.splits);
    case 32:
      return launch_linear_tile<32>(context, op, arguments, num_row_tiles, tune.splits);
    case 64:
      return launch_linear_tile<64>(context, op, arguments, num_row_tiles, tune.splits);
    default:
      return launch_linear_tile<128>(context, op, arguments, num_row_tiles, tune.splits);
  }
}

void linear_group(Context& context, const LinearGroupParams& params) {
  LinearArguments arguments{};
  const auto add = [&arguments](const LinearSegment& segment, int num_tokens) {
    if (arguments.num_segments == kMaxSegments) fail_line("linear_group: more than %d matrices", kMaxSegments);
    if (arguments.num_segments > 0 && arguments.num_tokens != num_tokens) {
      fail_line("linear_group: %d tokens beside %d", num_tokens, arguments.num_tokens);
    }
    arguments.num_tokens = num_tokens;
    arguments.segments[arguments.num_segments++] = segment;
  };
  for (const LinearFp8Params& linear : params.fp8) add(fp8_segment(linear), linear.num_tokens);
  for (const LinearBf16Params& linear : params.bf16) {
    LinearSegment segment = bf16_segment(linear.x, linear.weight, linear.out);
    segment.out_scale = linear.out_scale;
    add(segment, linear.num_tokens);
  }
  for (const LinearFp32Params& linear : params.fp32) {
    LinearSegment segment = bf16_segment(linear.x, linear.weight, linear.out);
    segment.out_fp32 = true;
    add(segment, linear.num_tokens);
  }
  const char* op = params.fp8.empty() ? (params.bf16.empty() ? "linear_fp32" : "linear_bf16") : "linear_fp8";
  launch_linear(context, op, arguments);
}

void linear_fp8(Context& context, const LinearFp8Params& params) {
  linear_group(context, {{&params, 1}, {}, {}});
}

}  // namespace dsv4::cuda
