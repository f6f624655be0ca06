// Embedding and stream expansion: each token's row of the table is read once and written hc_mult times.
//
// A thread moves 16 bytes; CTA (t, part) covers 1024 columns of token t. Bytes per token: 2·hidden·(1 + hc_mult).
#include "backend/cuda/block/bf16x8.h"
#include "backend/cuda/ops.h"
#include "backend/cuda/ptx/grid.h"

namespace dsv4::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads) embed_kernel(const EmbedParams params) {
  ptx::grid_dependency_wait();
  ptx::grid_launch_dependents();
  const int token = blockIdx.x;
  const int column = (blockIdx.y * kThreads + threadIdx.x) * kChunk;
  if (column >= params.hidden_size) return;
  const int32_t id = params.token_ids[token];
  // Padding rows may carry no token: they become zeros.
  const uint4 chunk = id >= 0 ? load_chunk(params.table + static_cast<int64_t>(id) * params.hidden_size + column) : uint4{};
  Bf16* out = params.streams + static_cast<int64_t>(token) * params.hc_mult * params.hidden_size + column;
  for (int h = 0; h < params.hc_mult; ++h, out += params.hidden_size) store_chunk(out, chunk);
}

}  // namespace

void embed(Context& context, const EmbedParams& params) {
  if (params.hidden_size <= 0 || params.hidden_size % kChunk != 0) {
    fail_line("embed: hidden_size %d, expected a multiple of %d", params.hidden_size, kChunk);
  }
  const int parts = ceil_div(params.hidden_size / kChunk, kThreads);
  launch(context, "embed", embed_kernel, {dim3(params.num_tokens, parts), dim3(kThreads)}, params);
}

}  // namespace dsv4::cuda
