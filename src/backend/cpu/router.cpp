#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/cpu/ops.h"
#include "backend/cpu/product.h"
#include "base/error.h"

namespace dsv4::cpu {
namespace {

// sqrt(softplus(z)), softplus(z) = z above 20, as the reference's framework computes it.
float sqrt_softplus(float z) {
  return std::sqrt(z > 20.0f ? z : std::log1p(std::exp(z)));
}

// The experts with the largest score + bias, best first, equal values in favour of the lower id.
void select_largest(const float* scores, const float* bias, int num_experts, int num_selected, int32_t* experts) {
  for (int slot = 0; slot < num_selected; ++slot) {
    int best = -1;
    for (int e = 0; e < num_experts; ++e) {
      if (std::find(experts, experts + slot, e) != experts + slot) continue;
      if (best < 0 || scores[e] + bias[e] > scores[best] + bias[best]) best = e;
    }
    experts[slot] = best;
  }
}

}  // namespace

void router(const RouterParams& params) {
  const int num_experts = params.gate.rows;
  const int num_selected = params.num_selected;
  const int cols = params.gate.cols;
  require(num_selected > 0 && num_selected <= num_experts, "router: {} experts selected of {}, expected 1…{}", num_selected, num_experts,
          num_experts);
  require((params.bias != nullptr) != (params.tid2eid != nullptr), "router: expected either a bias or a table of experts by token id");
  std::vector<float> scores(static_cast<size_t>(params.num_tokens) * num_experts);
  multiply(
      Bf16Rows{params.gate}, params.num_tokens, [&](int t, float* out) { load_bf16_row(params.x, t, cols, kBf16PerWord, out); },
      [&](int t, int e, float z) { scores[static_cast<size_t>(t) * num_experts + e] = sqrt_softplus(z); });

  for (int t = 0; t < params.num_tokens; ++t) {
    const float* token_scores = scores.data() + static_cast<size_t>(t) * num_experts;
    int32_t* experts = params.experts + static_cast<int64_t>(t) * num_selected;
    float* weights = params.weights + static_cast<int64_t>(t) * num_selected;
    if (params.positions != nullptr && params.positions[t] < 0) {
      std::fill_n(experts, num_selected, -1);
      std::fill_n(weights, num_selected, 0.0f);
      continue;
    }
    if (params.tid2eid != nullptr) {
      const int64_t* row = params.tid2eid + static_cast<int64_t>(params.token_ids[t]) * num_selected;
      for (int slot = 0; slot < num_selected; ++slot) {
        require(row[slot] >= 0 && row[slot] < num_experts, "router: token id {} maps to expert {}, expected 0…{}", params.token_ids[t],
                row[slot], num_experts - 1);
        experts[slot] = static_cast<int32_t>(row[slot]);
      }
    } else {
      select_largest(token_scores, params.bias, num_experts, num_selected, experts);
    }
    float sum = 0.0f;
    for (int slot = 0; slot < num_selected; ++slot) sum += token_scores[experts[slot]];
    for (int slot = 0; slot < num_selected; ++slot) weights[slot] = token_scores[experts[slot]] / sum * params.routed_scaling_factor;
  }
}

}  // namespace dsv4::cpu
