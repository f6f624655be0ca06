// Grouped output projection wo_a: FP8 weights are widened to bf16 in registers (exact) and multiplied with bf16 activations; the tiles of a
// group read the group's columns of x (block/linear.h, docs/kernels/linear.md).
#include "backend/cuda/block/linear.h"
#include "backend/cuda/ops.h"

namespace dsv4::cuda {

void grouped_linear(Context& context, const GroupedLinearParams& params) {
  const int group_rows = params.weight.rows / params.num_groups;
  if (params.weight.cols % 128 != 0) fail_line("grouped_linear: %d input features, expected a multiple of 128", params.weight.cols);
  if (group_rows % kGemmRows != 0) fail_line("grouped_linear: %d rows per group, expected a multiple of %d", group_rows, kGemmRows);
  LinearArguments arguments{};
  arguments.num_segments = 1;
  arguments.num_tokens = params.num_tokens;
  LinearSegment& segment = arguments.segments[0];
  segment.product = Product::kFp8;
  segment.tiles = params.weight.codes;
  segment.scales = params.weight.scales;
  segment.x = reinterpret_cast<const uint8_t*>(params.x);
  segment.out = params.out;
  segment.group_column_bytes = static_cast<uint32_t>(params.weight.cols) * sizeof(Bf16);
  segment.group_row_tiles = static_cast<uint32_t>(group_rows / kGemmRows);
  segment.x_row_bytes = segment.group_column_bytes * static_cast<uint32_t>(params.num_groups);
  segment.rows = params.weight.rows;
  segment.num_blocks = params.weight.cols / 128;
  segment.out_scale = 1.0f;
  launch_linear(context, "grouped_linear", arguments);
}

}  // namespace dsv4::cuda
