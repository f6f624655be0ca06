#include <cmath>
#include <vector>

#include "backend/cpu/dot.h"
#include "backend/cpu/ops.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/rope.h"
#include "base/error.h"

namespace dsv4::cpu {

void query_norm(const QueryNormParams& params) {
  const int dim = params.head_dim;
  const int nope_dim = dim - params.rope_dim;
  require(params.rope_dim <= kRopeDim && nope_dim >= 0, "query_norm: rope_dim {} of head_dim {}, expected at most {}", params.rope_dim, dim,
          kRopeDim);
  const int64_t work_per_row = 8LL * params.num_heads * dim;
  parallel_for(params.num_tokens, work_per_row, [&](int64_t begin, int64_t end) {
    std::vector<float> x(dim), squares(dim);
    const std::vector<float> ones(dim, 1.0f);
    for (int64_t row = begin; row < end; ++row) {
      const Rotation rotation = make_rotation(params.positions[row], params.freqs, params.rope_dim);
      for (int head = 0; head < params.num_heads; ++head) {
        Bf16* q = params.q + (row * params.num_heads + head) * dim;
        for (int i = 0; i < dim; ++i) {
          x[i] = to_float(q[i]);
          squares[i] = round_bf16(x[i] * x[i]);
        }
        const float mean = round_bf16(dot(squares.data(), ones.data(), dim) / static_cast<float>(dim));
        const float factor = round_bf16(1.0f / std::sqrt(round_bf16(mean + params.eps)));
        for (int i = 0; i < dim; ++i) x[i] = round_bf16(x[i] * factor);
        rotate(rotation, params.rope_dim, x.data() + nope_dim);
        for (int i = 0; i < dim; ++i) q[i] = to_bf16(x[i]);
      }
    }
  });
}

}  // namespace dsv4::cpu
