#include "backend/cpu/expert_mlp.h"
#include "backend/cpu/ops.h"
#include "base/error.h"

namespace dsv4::cpu {

void shared_expert(const SharedExpertParams& params) {
  const int hidden_size = params.w1.cols;
  const int intermediate_size = params.w1.rows;
  require(params.w3.rows == intermediate_size && params.w3.cols == hidden_size && params.w2.rows == hidden_size &&
              params.w2.cols == intermediate_size,
          "shared_expert: w1 [{},{}], w2 [{},{}], w3 [{},{}] do not fit together", intermediate_size, hidden_size, params.w2.rows,
          params.w2.cols, params.w3.rows, params.w3.cols);
  const int stride = padded(hidden_size);
  const auto activations = std::make_unique_for_overwrite<float[]>(static_cast<size_t>(std::min(params.num_tokens, kTokenBlock)) * stride);
  for (int block = 0; block < params.num_tokens; block += kTokenBlock) {
    const int num_tokens = std::min(kTokenBlock, params.num_tokens - block);
    ExpertRows rows;
    rows.reserve(num_tokens);
    for (int t = 0; t < num_tokens; ++t) {
      float* row = activations.get() + static_cast<int64_t>(t) * stride;
      load_fp8_row(params.x, block + t, hidden_size, kFp8PerWord, row);
      rows.add(row, 1.0f, params.out + static_cast<int64_t>(block + t) * hidden_size);  // a weight of 1 changes no bit
    }
    const std::vector<ExpertJob<Fp8Rows>> jobs = {{{params.w1}, {params.w2}, {params.w3}, 0, num_tokens}};
    expert_mlp(jobs, rows, hidden_size, intermediate_size, params.swiglu_limit);
  }
}

}  // namespace dsv4::cpu
