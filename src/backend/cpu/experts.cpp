#include "backend/cpu/expert_mlp.h"
#include "backend/cpu/ops.h"
#include "base/error.h"

namespace dsv4::cpu {
namespace {

// Tokens per pass: enough to share each decoded weight among several, few enough for the activations to stay small.
constexpr int kExpertTokens = 256;

// One pass over the tokens [token_begin, token_begin + num_tokens). make_rows(matrix, rows, cols) is the view of a matrix in the experts'
// format.
template <class Rows, class MakeRows>
void run_pass(const ExpertsParams& params, int token_begin, int num_tokens, const MakeRows& make_rows) {
  const int hidden_size = params.hidden_size;
  const int num_selected = params.num_selected;
  const int stride = padded(hidden_size);
  const auto activations = std::make_unique_for_overwrite<float[]>(static_cast<size_t>(num_tokens) * stride);
  parallel_for(num_tokens, 4 * stride, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      load_fp8_row(params.x, token_begin + t, hidden_size, Rows::kPerWord, activations.get() + t * stride);
  });

  // Counting sort of the (token, slot) pairs by expert; within an expert they keep their order.
  const int num_pairs = num_tokens * num_selected;
  const int32_t* experts = params.experts + static_cast<int64_t>(token_begin) * num_selected;
  std::vector<int> pair_end(static_cast<size_t>(params.num_experts) + 1);
  for (int pair = 0; pair < num_pairs; ++pair) {
    if (experts[pair] == -1) continue;  // padding
    require(experts[pair] >= 0 && experts[pair] < params.num_experts, "experts: token {} slot {} has expert {}, expected 0…{}",
            token_begin + pair / num_selected, pair % num_selected, experts[pair], params.num_experts - 1);
    ++pair_end[static_cast<size_t>(experts[pair]) + 1];
  }
  for (int e = 0; e < params.num_experts; ++e) pair_end[e + 1] += pair_end[e];
  std::vector<int> sorted(pair_end.back());
  for (int pair = 0; pair < num_pairs; ++pair) {
    if (experts[pair] >= 0) sorted[pair_end[experts[pair]]++] = pair;
  }

  ExpertRows rows;
  rows.reserve(num_pairs);
  std::vector<ExpertJob<Rows>> jobs;
  for (const int pair : sorted) {
    const int e = experts[pair];
    if (jobs.empty() || e != experts[sorted[jobs.back().row_begin]]) {
      jobs.push_back({make_rows(params.w1[e], params.intermediate_size, hidden_size),
                      make_rows(params.w2[e], hidden_size, params.intermediate_size),
                      make_rows(params.w3[e], params.intermediate_size, hidden_size), rows.count(), 0});
    }
    ++jobs.back().num_rows;
    const int64_t global_pair = static_cast<int64_t>(token_begin) * num_selected + pair;
    rows.add(activations.get() + static_cast<int64_t>(pair / num_selected) * stride, params.weights[global_pair],
             params.out + global_pair * hidden_size);
  }
  expert_mlp(jobs, rows, hidden_size, params.intermediate_size, params.swiglu_limit);
}

}  // namespace

void experts(const ExpertsParams& params) {
  for (int token_begin = 0; token_begin < params.num_tokens; token_begin += kExpertTokens) {
    const int num_tokens = std::min(kExpertTokens, params.num_tokens - token_begin);
    if (params.format == ExpertFormat::kFp4) {
      require(params.hidden_size % kFp4Block == 0 && params.intermediate_size % kFp4Block == 0,
              "experts: FP4 matrices of {}×{}, expected multiples of {}", params.intermediate_size, params.hidden_size, kFp4Block);
      run_pass<Fp4Rows>(params, token_begin, num_tokens, [](const ExpertMatrix& matrix, int num_rows, int num_cols) {
        return Fp4Rows{matrix, num_rows, num_cols};
      });
    } else {
      run_pass<Fp8Rows>(params, token_begin, num_tokens, [](const ExpertMatrix& matrix, int num_rows, int num_cols) {
        return Fp8Rows{{matrix.codes, matrix.scales, num_rows, num_cols}};
      });
    }
  }
}

}  // namespace dsv4::cpu
