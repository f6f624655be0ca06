// combine alone: the boundary's kernel (mhc_pre.cu) with its other parts left out. Reads num_selected + 1 rows and writes one per token.
#include "backend/cuda/ops.h"
#include "backend/cuda/sm90/mhc_boundary.h"

namespace dsv4::cuda {

void combine(Context& context, const CombineParams& params) {
  MhcBoundary boundary;
  boundary.set(params);
  launch_boundary(context, "combine", boundary);
}

}  // namespace dsv4::cuda
