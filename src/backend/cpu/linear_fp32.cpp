#include "backend/cpu/ops.h"
#include "backend/cpu/product.h"

namespace dsv4::cpu {

void linear_fp32(const LinearFp32Params& params) {
  const int64_t rows = params.weight.rows;
  const int cols = params.weight.cols;
  multiply(
      Bf16Rows{params.weight}, params.num_tokens, [&](int t, float* out) { load_bf16_row(params.x, t, cols, kBf16PerWord, out); },
      [&](int t, int o, float sum) { params.out[t * rows + o] = sum; });
}

}  // namespace dsv4::cpu
