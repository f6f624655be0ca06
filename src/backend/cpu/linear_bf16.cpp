#include "backend/cpu/ops.h"
#include "backend/cpu/product.h"

namespace dsv4::cpu {

void linear_bf16(const LinearBf16Params& params) {
  const int64_t rows = params.weight.rows;
  const int cols = params.weight.cols;
  multiply(
      Bf16Rows{params.weight}, params.num_tokens, [&](int t, float* out) { load_bf16_row(params.x, t, cols, kBf16PerWord, out); },
      [&](int t, int o, float sum) {
        // Two roundings, as the reference multiplies the bf16 product; a factor of 1 changes nothing.
        params.out[t * rows + o] = to_bf16(round_bf16(sum) * params.out_scale);
      });
}

}  // namespace dsv4::cpu
