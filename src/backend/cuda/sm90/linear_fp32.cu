// linear_fp32: a group of one matrix (sm90/linear_fp8.cu). bf16 operands are exact, the tensor cores sum in fp32, promoted every 256 of K.
#include "backend/cuda/ops.h"

namespace dsv4::cuda {

void linear_fp32(Context& context, const LinearFp32Params& params) {
  linear_group(context, {{}, {}, {&params, 1}});
}

}  // namespace dsv4::cuda
