// Router (spec 2.11, steps 1–3): σ = sqrt(softplus(x·Wᵀ)) in fp32; the `num_selected` experts are those with the largest σ + bias (equal
// values in favour of the lower id) or, in hash layers, row tid2eid[token id]; weights = σ_e / Σ_selected σ · routed_scaling_factor from
// the unbiased σ.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "ops/weight.h"

namespace dsv4 {

struct RouterParams {
  const Bf16* x;             // [num_tokens, gate.cols]
  Bf16Weight gate;           // [num_experts, hidden_size]
  const float* bias;         // [num_experts]; nullptr in hash layers
  const int64_t* tid2eid;    // [vocab_size, num_selected]; nullptr in scored layers
  const int32_t* token_ids;  // [num_tokens], used in hash layers
  int32_t* experts;          // [num_tokens, num_selected], out
  float* weights;            // [num_tokens, num_selected], out, same order
  int num_tokens;
  int num_selected;
  float routed_scaling_factor;
  const int32_t* positions = nullptr;  // [num_tokens], or nullptr; rows at a negative position get experts −1 and weights 0
};

}  // namespace dsv4
