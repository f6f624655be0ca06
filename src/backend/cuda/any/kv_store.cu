// Window entries: norm, RoPE, FP8 quantisation and the store into the ring.
//
// One warp per row, each on its own: the row and its 32 rotations stand in the warp's part of shared memory. Bytes per row: 2·head_dim
// read, one entry (584 bytes for 512) written.
#include "backend/cuda/block/kv_entry.h"
#include "backend/cuda/ops.h"
#include "backend/cuda/ptx/grid.h"

namespace dsv4::cuda {
namespace {

constexpr int kRowsPerCta = 4;
constexpr int kThreads = kRowsPerCta * 32;

struct RowShared {
  uint4 chunks[kMaxHeadDim / kChunk];  // bf16
  Rotation rotations[kRopePairs];
};

__global__ void __launch_bounds__(kThreads) kv_store_kernel(const KvStoreParams params, const int64_t page_bytes) {
  __shared__ RowShared rows[kRowsPerCta];
  ptx::grid_dependency_wait();
  ptx::grid_launch_dependents();
  const BatchView& batch = params.batch;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int row = blockIdx.x * kRowsPerCta + warp;
  if (row >= batch.num_tokens) return;
  const int position = batch.positions[row];
  if (position < 0) return;
  const int slot = batch.slots[batch.seq_idx[row]];
  const int dim = params.head_dim;
  const KvEntryLayout layout{dim};

  RowShared& shared = rows[warp];
  for (int chunk = lane; chunk * kChunk < dim; chunk += 32) {
    shared.chunks[chunk] = load_chunk(params.kv + static_cast<int64_t>(row) * dim + chunk * kChunk);
  }
  shared.rotations[lane] = rope_rotation(position, params.freqs[lane]);
  __syncwarp();
  float x[kRowChunks][kChunk];
  norm_and_rotate(reinterpret_cast<const Bf16*>(shared.chunks), params.weight, shared.rotations, dim, params.eps, x);
  const int ring_size = params.ring.ring_size;
  store_fp8_entry(layout, x, entry_address(layout, params.ring.data, page_bytes, slot, ring_size, position % ring_size));
}

}  // namespace

void kv_store(Context& context, const KvStoreParams& params) {
  if (!is_head_dim(params.head_dim)) fail_line("kv_store: head_dim %d, expected 64, 128, 256 or 512", params.head_dim);
  if (params.ring.ring_size <= 0) fail_line("kv_store: ring of %d entries, expected at least 1", params.ring.ring_size);
  const auto page_bytes = static_cast<int64_t>(KvEntryLayout{params.head_dim}.page_bytes(params.ring.ring_size));
  launch(context, "kv_store", kv_store_kernel, {dim3(ceil_div(params.batch.num_tokens, kRowsPerCta)), dim3(kThreads)}, params, page_bytes);
}

}  // namespace dsv4::cuda
