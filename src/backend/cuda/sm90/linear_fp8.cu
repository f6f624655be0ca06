// Linear layers on Hopper: linear_fp8 and the group of products of one input (ops/groups.h). One launch for all matrices: their 128-row
// tiles stand one after the other in the grid (block/linear.h, docs/kernels/linear.md).
#include "backend/cuda/block/linear.h"
#include "backend/cuda/ops.h"

namespace dsv4::cuda {
namespace {

LinearSegment fp8_segment(const LinearFp8Params& params) {
  if (params.weight.cols % 128 != 0) fail_line("linear_fp8: %d input features, expected a multiple of 128", params.weight.cols);
  LinearSegment segment{};
  segment.product = Product::kFp8;
  segment.tiles = params.weight.codes;
  segment.scales = params.weight.scales;
  segment.x = params.x.codes;
  segment.x_scales = params.x.scales;
  segment.out = params.out;
  segment.x_row_bytes = static_cast<uint32_t>(params.weight.cols);
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
  launch_linear<false>(context, op, arguments);
}

void linear_fp8(Context& context, const LinearFp8Params& params) {
  linear_group(context, {{&params, 1}, {}, {}});
}

}  // namespace dsv4::cuda
