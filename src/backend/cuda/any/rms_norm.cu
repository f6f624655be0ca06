// RMS norm, and RMS norm with FP8 quantisation of its rounded result (ops/groups.h): one kernel, the second part by a non-null pointer.
//
// One CTA per row: the row is staged in shared memory; warp 0 adds the squares in the order of the CPU backend (48 steps for 1536 columns,
// 0.3 µs), all threads scale, round and store 8 columns each, and 16 neighbouring lanes hold a block of 128 for the quantisation.
// Bytes per row: 4·dim, plus dim·(1 + 1/128) with codes and 2·dim with values.
#include "backend/cuda/block/ordered_sum.h"
#include "backend/cuda/block/quantize.h"
#include "backend/cuda/ops.h"
#include "backend/cuda/ptx/grid.h"

namespace dsv4::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kColumnsPerPass = kThreads * kChunk;
constexpr int kBlockLanes = kFp8Block / kChunk;

struct NormArguments {
  RmsNormParams norm;
  uint8_t* codes;  // e4m3 [num_rows, dim], or nullptr
  uint8_t* scales;
  Bf16* values;  // or nullptr
};

__global__ void __launch_bounds__(kThreads) rms_norm_kernel(const NormArguments arguments) {
  extern __shared__ uint4 row_chunks[];  // [dim/8]
  __shared__ float shared_factor;
  ptx::grid_dependency_wait();
  ptx::grid_launch_dependents();
  const RmsNormParams& params = arguments.norm;
  const int dim = params.dim;
  const int64_t row = blockIdx.x;
  const int64_t row_offset = row * dim;
  for (int chunk = threadIdx.x; chunk * kChunk < dim; chunk += kThreads) {
    row_chunks[chunk] = load_chunk(params.x + row_offset + chunk * kChunk);
  }
  __syncthreads();
  if (threadIdx.x < 32) {
    const float sum = warp_ordered_sum<true>(reinterpret_cast<const Bf16*>(row_chunks), dim);
    if (threadIdx.x == 0) shared_factor = rms_factor(sum, dim, params.eps);
  }
  __syncthreads();
  const float factor = shared_factor;
  for (int begin = 0; begin < dim; begin += kColumnsPerPass) {
    const int column = begin + static_cast<int>(threadIdx.x) * kChunk;
    const bool inside = column < dim;
    float x[kChunk], weight[kChunk];
    unpack_bf16x8(inside ? row_chunks[column / kChunk] : uint4{}, x);
    unpack_bf16x8(inside ? load_chunk(params.weight + column) : uint4{}, weight);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) x[i] = round_to_bf16(__fmul_rn(__fmul_rn(x[i], factor), weight[i]));
    if (inside) store_chunk(params.out + row_offset + column, pack_bf16x8(x));
    if (arguments.codes == nullptr) continue;
    uint32_t scale_code;
    const uint2 codes = quantize_fp8x8<kBlockLanes>(x, scale_code);
    if (!inside) continue;
    *reinterpret_cast<uint2*>(arguments.codes + row_offset + column) = codes;
    if (arguments.values != nullptr) store_chunk(arguments.values + row_offset + column, fp8x8_values(codes, scale_code));
    if (column % kFp8Block == 0) arguments.scales[row * ceil_div(dim, kFp8Block) + column / kFp8Block] = static_cast<uint8_t>(scale_code);
  }
}

void launch_norm(Context& context, const char* op, const NormArguments& arguments) {
  const int dim = arguments.norm.dim;
  if (dim <= 0 || dim % 32 != 0) fail_line("%s: dim %d, expected a multiple of 32", op, dim);
  launch(context, op, rms_norm_kernel, {dim3(arguments.norm.num_rows), dim3(kThreads), dim * sizeof(Bf16)}, arguments);
}

}  // namespace

void rms_norm(Context& context, const RmsNormParams& params) {
  launch_norm(context, "rms_norm", {params, nullptr, nullptr, nullptr});
}

void norm_quantize(Context& context, const NormQuantizeParams& params) {
  if (params.quantize.x != params.norm.out || params.quantize.num_rows != params.norm.num_rows || params.quantize.dim != params.norm.dim) {
    fail_line("norm_quantize: quantises %d rows of %d, expected the norm's result: %d rows of %d", params.quantize.num_rows,
              params.quantize.dim, params.norm.num_rows, params.norm.dim);
  }
  launch_norm(context, "norm_quantize", {params.norm, params.quantize.codes, params.quantize.scales, params.quantize.values});
}

}  // namespace dsv4::cuda
