// linear_bf16: a group of one matrix (sm90/linear_fp8.cu).
#include "backend/cuda/ops.h"

namespace dsv4::cuda {

void linear_bf16(Context& context, const LinearBf16Params& params) {
  linear_group(context, {{}, {&params, 1}, {}});
}

}  // namespace dsv4::cuda
