// Advances the rows of a decode step (ops/advance.h): one thread per row. Bytes: 16 read and 16 written per row, at most 256 rows: the cost
// is the launch.
#include "ops/advance.h"

#include "backend/cuda/ops.h"
#include "backend/cuda/ptx/grid.h"

namespace dsv4::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads) advance_kernel(AdvanceParams params) {
  ptx::grid_dependency_wait();
  ptx::grid_launch_dependents();
  const int row = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (row >= params.num_rows || params.positions[row] < 0) return;
  const int32_t drawn = params.drawn[row];
  params.token_ids[row] = drawn < 0 ? 0 : drawn;
  ++params.positions[row];
  ++params.rows[row].draw_idx;
}

}  // namespace

void advance(Context& context, const AdvanceParams& params) {
  const unsigned num_blocks = (static_cast<unsigned>(params.num_rows) + kThreads - 1) / kThreads;
  launch(context, "advance", advance_kernel, LaunchConfig{dim3(num_blocks), dim3(kThreads)}, params);
}

}  // namespace dsv4::cuda
