// FP8 quantisation of activations in blocks of 128 columns.
//
// A thread holds 8 columns, 16 neighbouring lanes a block; CTA (row, part) covers 1024 columns. Bytes per row: 3·dim + dim/128, 2·dim more
// with values.
#include "backend/cuda/block/quantize.h"
#include "backend/cuda/ops.h"
#include "backend/cuda/ptx/grid.h"

namespace dsv4::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kBlockLanes = kFp8Block / kChunk;

__global__ void __launch_bounds__(kThreads) quantize_kernel(const QuantizeParams params) {
  ptx::grid_dependency_wait();
  ptx::grid_launch_dependents();
  const int64_t row = blockIdx.x;
  const int column = (blockIdx.y * kThreads + threadIdx.x) * kChunk;
  const bool inside = column < params.dim;
  const int64_t offset = row * params.dim + column;
  float x[kChunk];
  unpack_bf16x8(inside ? load_chunk(params.x + offset) : uint4{}, x);
  uint32_t scale_code;
  const uint2 codes = quantize_fp8x8<kBlockLanes>(x, scale_code);
  if (!inside) return;
  *reinterpret_cast<uint2*>(params.codes + offset) = codes;
  if (params.values != nullptr) store_chunk(params.values + offset, fp8x8_values(codes, scale_code));
  if (column % kFp8Block == 0) params.scales[row * ceil_div(params.dim, kFp8Block) + column / kFp8Block] = static_cast<uint8_t>(scale_code);
}

}  // namespace

void quantize(Context& context, const QuantizeParams& params) {
  if (params.dim <= 0 || params.dim % kChunk != 0) fail_line("quantize: dim %d, expected a multiple of %d", params.dim, kChunk);
  const int parts = ceil_div(params.dim / kChunk, kThreads);
  launch(context, "quantize", quantize_kernel, {dim3(params.num_rows, parts), dim3(kThreads)}, params);
}

}  // namespace dsv4::cuda
