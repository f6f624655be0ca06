// The collapse before the head, alone or with the norm that follows it: the boundary's kernel (mhc_pre.cu) with 4 mixes instead of 24,
// without Sinkhorn and without streams to write. Few tokens reach the head; fn (256 KiB at d = 4096) is read before the wait.
#include "backend/cuda/ops.h"
#include "backend/cuda/sm90/mhc_boundary.h"

namespace dsv4::cuda {

void mhc_head(Context& context, const MhcHeadParams& params) {
  MhcBoundary boundary;
  boundary.set("mhc_head", params);
  launch_boundary(context, "mhc_head", boundary);
}

void head_norm(Context& context, const HeadNormParams& params) {
  MhcBoundary boundary;
  boundary.set("head_norm", params.head);
  boundary.set("head_norm", params.norm);
  launch_boundary(context, "head_norm", boundary);
}

}  // namespace dsv4::cuda
