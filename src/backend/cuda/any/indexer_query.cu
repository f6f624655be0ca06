// Indexer queries: RoPE, Hadamard rotation and FP4 quantisation.
//
// A thread holds 8 dims, index_head_dim/8 neighbouring lanes a head; CTA (token, part) covers 2048 of the token's values and computes its
// 32 rotations once. Bytes per token and head of 128: 256 read, 68 written.
#include <cmath>

#include "backend/cuda/block/kv_entry.h"
#include "backend/cuda/ops.h"
#include "backend/cuda/ptx/grid.h"

namespace dsv4::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) indexer_query_kernel(const IndexerQueryParams params, const float hadamard_scale) {
  __shared__ Rotation rotations[kRopePairs];
  ptx::grid_dependency_wait();
  ptx::grid_launch_dependents();
  const int64_t token = blockIdx.x;
  const int dim = params.index_head_dim;
  const int num_chunks = params.num_heads * dim / kChunk;  // of the token
  const int chunk = blockIdx.y * kThreads + threadIdx.x;
  const bool inside = chunk < num_chunks;
  const int64_t token_chunk = token * num_chunks + chunk;
  const uint4 packed = inside ? load_chunk(params.iq + token_chunk * kChunk) : uint4{};
  if (threadIdx.x < kRopePairs) rotations[threadIdx.x] = rope_rotation(params.positions[token], params.freqs[threadIdx.x]);
  __syncthreads();

  const int num_lanes = dim / kChunk;  // of a head: a power of two
  float x[kChunk];
  unpack_bf16x8(packed, x);
  rotate_chunk(x, chunk & (num_lanes - 1), dim, rotations);
  hadamard(x, num_lanes, hadamard_scale);
  uint32_t scale_code;
  const uint32_t codes = quantize_fp4x8(x, scale_code);
  if (!inside) return;
  *reinterpret_cast<uint32_t*>(params.codes + token_chunk * sizeof(uint32_t)) = codes;
  constexpr int kBlockLanes = kIndexerFp4Block / kChunk;
  if (chunk % kBlockLanes == 0) params.scales[token_chunk / kBlockLanes] = static_cast<uint8_t>(scale_code);
}

}  // namespace

void indexer_query(Context& context, const IndexerQueryParams& params) {
  const int dim = params.index_head_dim;
  if (dim != 64 && dim != 128) fail_line("indexer_query: index_head_dim %d, expected 64 or 128", dim);
  if (params.rope_dim != kRopeDim) fail_line("indexer_query: rope_dim %d, expected %d", params.rope_dim, kRopeDim);
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(dim)));
  const int parts = ceil_div(params.num_heads * dim / kChunk, kThreads);
  launch(context, "indexer_query", indexer_query_kernel, {dim3(params.num_tokens, parts), dim3(kThreads)}, params, scale);
}

}  // namespace dsv4::cuda
