#include "backend/cpu/rms_norm.h"

#include <cmath>
#include <vector>

#include "backend/cpu/dot.h"
#include "backend/cpu/ops.h"
#include "backend/cpu/parallel.h"

namespace dsv4::cpu {

void rms_norm_row(const Bf16* weight, int dim, float eps, float* x) {
  const float mean = dot(x, x, dim) / static_cast<float>(dim);
  const float factor = 1.0f / std::sqrt(mean + eps);
  for (int i = 0; i < dim; ++i) x[i] = round_bf16(x[i] * factor * to_float(weight[i]));
}

void rms_norm(const RmsNormParams& params) {
  const int dim = params.dim;
  parallel_for(params.num_rows, 4 * dim, [&](int64_t begin, int64_t end) {
    std::vector<float> row(dim);
    for (int64_t row_idx = begin; row_idx < end; ++row_idx) {
      const Bf16* x = params.x + row_idx * dim;
      Bf16* out = params.out + row_idx * dim;
      for (int i = 0; i < dim; ++i) row[i] = to_float(x[i]);
      rms_norm_row(params.weight, dim, params.eps, row.data());
      for (int i = 0; i < dim; ++i) out[i] = to_bf16(row[i]);
    }
  });
}

}  // namespace dsv4::cpu
