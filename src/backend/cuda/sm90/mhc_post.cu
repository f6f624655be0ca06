// mhc_post alone: the boundary's kernel (mhc_pre.cu) with its other parts left out. Reads y and reads and writes the streams: 9 rows per
// token.
#include "backend/cuda/ops.h"
#include "backend/cuda/sm90/mhc_boundary.h"

namespace dsv4::cuda {

void mhc_post(Context& context, const MhcPostParams& params) {
  MhcBoundary boundary;
  boundary.set("mhc_post", params);
  launch_boundary(context, "mhc_post", boundary);
}

}  // namespace dsv4::cuda
