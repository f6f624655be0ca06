// Routed experts (spec 2.11, step 4): G = bf(x·w1ᵀ), U = bf(x·w3ᵀ); h = bf( ω·silu(min(G, limit))·clamp(U, ±limit) ); out = bf(
// quantised(h)·w2ᵀ ). Products are L4 (FP4 experts: fp32 sum over blocks of 32 columns with both scales) or L8 (FP8 experts).
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "ops/weight.h"

namespace dsv4 {

struct ExpertsParams {
  Fp8Activation x;         // [num_tokens, hidden_size], from quantize
  const int32_t* experts;  // [num_tokens, num_selected], from router; −1 for padding rows, whose out is not written
  const float* weights;    // [num_tokens, num_selected]
  const ExpertMatrix* w1;  // [num_experts], each [intermediate_size, hidden_size]
  const ExpertMatrix* w2;  // [num_experts], each [hidden_size, intermediate_size]
  const ExpertMatrix* w3;  // [num_experts], each [intermediate_size, hidden_size]
  ExpertFormat format;
  Bf16* out;  // [num_tokens, num_selected, hidden_size]
  int num_tokens;
  int num_selected;
  int num_experts;
  int hidden_size;
  int intermediate_size;
  float swiglu_limit;
  void* scratch = nullptr;  // experts_scratch_bytes() of these sizes, for backends that need it; the shared expert of a group shares it
};

// Upper bound of what a backend keeps between the two products: quantised h of every (token, expert) pair, the shared expert's among them,
// and lists of the pairs by expert.
constexpr int64_t experts_scratch_bytes(int64_t num_tokens, int64_t num_selected, int64_t num_experts, int64_t intermediate_size) {
  const int64_t num_pairs = num_tokens * (num_selected + 1);
  return num_pairs * intermediate_size * static_cast<int64_t>(sizeof(Bf16)) + (4 * num_pairs + 8 * (num_experts + 2)) * 4 + 4096;
}

}  // namespace dsv4
