#include "backend/cpu/ops.h"
#include "backend/cpu/product.h"

namespace dsv4::cpu {

void linear_fp8(const LinearFp8Params& params) {
  const int64_t rows = params.weight.rows;
  const int cols = params.weight.cols;
  multiply(
      Fp8Rows{params.weight}, params.num_tokens, [&](int t, float* out) { load_fp8_row(params.x, t, cols, kFp8PerWord, out); },
      [&](int t, int o, float sum) { params.out[t * rows + o] = to_bf16(sum); });
}

}  // namespace dsv4::cpu
