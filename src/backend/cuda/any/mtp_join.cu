// Input streams of an MTP block: streams[t, h] = bf(e[t] + g[t, h]).
//
// A thread adds 8 columns of all streams of a token, so that e is read once; CTA (t, part) covers 1024 columns.
// Bytes per token: 2·hidden·(1 + 2·hc_mult).
#include "backend/cuda/block/bf16x8.h"
#include "backend/cuda/ops.h"
#include "backend/cuda/ptx/grid.h"

namespace dsv4::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads) mtp_join_kernel(const MtpJoinParams params) {
  ptx::grid_dependency_wait();
  ptx::grid_launch_dependents();
  const int64_t token = blockIdx.x;
  const int column = (blockIdx.y * kThreads + threadIdx.x) * kChunk;
  if (column >= params.hidden_size) return;
  float e[kChunk];
  unpack_bf16x8(load_chunk(params.e + token * params.hidden_size + column), e);
#pragma unroll 4
  for (int h = 0; h < params.hc_mult; ++h) {
    const int64_t offset = (token * params.hc_mult + h) * params.hidden_size + column;
    float x[kChunk];
    unpack_bf16x8(load_chunk(params.g + offset), x);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) x[i] = __fadd_rn(e[i], x[i]);
    store_chunk(params.streams + offset, pack_bf16x8(x));
  }
}

}  // namespace

void mtp_join(Context& context, const MtpJoinParams& params) {
  if (params.hidden_size <= 0 || params.hidden_size % kChunk != 0) {
    fail_line("mtp_join: hidden_size %d, expected a multiple of %d", params.hidden_size, kChunk);
  }
  const int parts = ceil_div(params.hidden_size / kChunk, kThreads);
  launch(context, "mtp_join", mtp_join_kernel, {dim3(params.num_tokens, parts), dim3(kThreads)}, params);
}

}  // namespace dsv4::cuda
