// Per-head norm in bf16 arithmetic and RoPE of the queries, in place.
//
// One warp per head, 8 heads of one token per CTA; the token's 32 rotations are computed once per CTA. A lane holds chunks `lane` and
// `lane`
// + 32 of its head, 8 values each; the rounded squares pass through shared memory so that they are added in the order of the CPU backend.
// Bytes per token: 4·num_heads·head_dim.
#include "backend/cuda/block/kv_entry.h"
#include "backend/cuda/ops.h"
#include "backend/cuda/ptx/grid.h"

namespace dsv4::cuda {
namespace {

constexpr int kHeadsPerCta = 8;
constexpr int kThreads = kHeadsPerCta * 32;

struct QueryShared {
  uint4 squares[kHeadsPerCta][kMaxHeadDim / kChunk];  // bf16
  Rotation rotations[kRopePairs];
};

__global__ void __launch_bounds__(kThreads) query_norm_kernel(const QueryNormParams params) {
  __shared__ QueryShared shared;
  ptx::grid_dependency_wait();
  ptx::grid_launch_dependents();
  const int64_t token = blockIdx.x;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int head = blockIdx.y * kHeadsPerCta + warp;
  const int dim = params.head_dim;
  const bool active = head < params.num_heads;
  Bf16* q = params.q + (token * params.num_heads + head) * dim;

  uint4 chunks[kRowChunks];
#pragma unroll
  for (int c = 0; c < kRowChunks; ++c) {
    const int column = (lane + 32 * c) * kChunk;
    chunks[c] = active && column < dim ? load_chunk(q + column) : uint4{};
  }
  if (warp == 0) shared.rotations[lane] = rope_rotation(params.positions[token], params.freqs[lane]);
#pragma unroll
  for (int c = 0; c < kRowChunks; ++c) {
    float x[kChunk];
    unpack_bf16x8(chunks[c], x);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) x[i] = __fmul_rn(x[i], x[i]);
    shared.squares[warp][lane + 32 * c] = pack_bf16x8(x);
  }
  __syncthreads();
  if (!active) return;
  const float sum = warp_ordered_sum<false>(reinterpret_cast<const Bf16*>(shared.squares[warp]), dim);
  const float mean = round_to_bf16(__fdiv_rn(sum, static_cast<float>(dim)));
  const float factor = round_to_bf16(__fdiv_rn(1.0f, __fsqrt_rn(round_to_bf16(__fadd_rn(mean, params.eps)))));
#pragma unroll
  for (int c = 0; c < kRowChunks; ++c) {
    const int chunk = lane + 32 * c;
    if (chunk * kChunk >= dim) continue;
    float x[kChunk];
    unpack_bf16x8(chunks[c], x);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) x[i] = round_to_bf16(__fmul_rn(x[i], factor));
    rotate_chunk(x, chunk, dim, shared.rotations);
    store_chunk(q + chunk * kChunk, pack_bf16x8(x));
  }
}

}  // namespace

void query_norm(Context& context, const QueryNormParams& params) {
  if (!is_head_dim(params.head_dim)) fail_line("query_norm: head_dim %d, expected 64, 128, 256 or 512", params.head_dim);
  if (params.rope_dim != kRopeDim) fail_line("query_norm: rope_dim %d, expected %d", params.rope_dim, kRopeDim);
  const int parts = ceil_div(params.num_heads, kHeadsPerCta);
  launch(context, "query_norm", query_norm_kernel, {dim3(params.num_tokens, parts), dim3(kThreads)}, params);
}

}  // namespace dsv4::cuda
