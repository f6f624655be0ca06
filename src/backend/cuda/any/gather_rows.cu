// Copies chosen rows, 16 bytes per access where rows are multiples of 16 bytes, else byte by byte (the logits of an odd vocabulary).
//
// CTA (i, part) moves up to kThreads·kUnroll units of row i; loads of a thread are issued before its stores. Bytes: 2·row_bytes per row.
#include <algorithm>

#include "backend/cuda/ops.h"
#include "backend/cuda/ptx/grid.h"

namespace dsv4::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kUnroll = 4;
constexpr int kMaxParts = 65535;  // of a grid along y

template <typename Unit>
__global__ void __launch_bounds__(kThreads) gather_rows_kernel(const GatherRowsParams params) {
  ptx::grid_dependency_wait();
  ptx::grid_launch_dependents();
  const int i = blockIdx.x;
  const int64_t row = params.rows != nullptr ? params.rows[i] : i;
  const int64_t out_row = params.out_rows != nullptr ? params.out_rows[i] : i;
  if (row < 0 || out_row < 0) return;
  const int64_t num_units = params.row_bytes / static_cast<int64_t>(sizeof(Unit));
  const Unit* x = static_cast<const Unit*>(params.x) + row * num_units;
  Unit* out = static_cast<Unit*>(params.out) + out_row * num_units;
  const int64_t stride = static_cast<int64_t>(gridDim.y) * kThreads * kUnroll;
  for (int64_t begin = static_cast<int64_t>(blockIdx.y) * kThreads * kUnroll + threadIdx.x; begin < num_units; begin += stride) {
    Unit units[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (begin + u * kThreads < num_units) units[u] = x[begin + u * kThreads];
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (begin + u * kThreads < num_units) out[begin + u * kThreads] = units[u];
    }
  }
}

template <typename Unit>
void launch_gather(Context& context, const GatherRowsParams& params) {
  const int64_t units_per_cta = kThreads * kUnroll;
  const int64_t parts = (params.row_bytes / static_cast<int64_t>(sizeof(Unit)) + units_per_cta - 1) / units_per_cta;
  const auto grid_parts = static_cast<unsigned>(std::min<int64_t>(parts, kMaxParts));
  launch(context, "gather_rows", gather_rows_kernel<Unit>, {dim3(params.num_rows, grid_parts), dim3(kThreads)}, params);
}

bool is_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % sizeof(uint4) == 0;
}

}  // namespace

void gather_rows(Context& context, const GatherRowsParams& params) {
  if (params.row_bytes < 0) fail_line("gather_rows: row_bytes %lld, expected at least 0", static_cast<long long>(params.row_bytes));
  if (params.row_bytes % static_cast<int64_t>(sizeof(uint4)) == 0 && is_aligned(params.x) && is_aligned(params.out)) {
    launch_gather<uint4>(context, params);
  } else {
    launch_gather<uint8_t>(context, params);
  }
}

}  // namespace dsv4::cuda
