// Per-head norm without weight, then RoPE (spec 2.5), in place. The norm is in bf16 arithmetic: z_i = bf(q_i²); m = bf(mean z, fp32 sum);
// ρ = bf(rsqrt(bf(m + eps))); q_i = bf(q_i·ρ). Then the last rope dims are rotated to the row's position.
#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace dsv4 {

struct QueryNormParams {
  Bf16* q;                   // [num_tokens, num_heads, head_dim], in place
  const int32_t* positions;  // [num_tokens]
  const float* freqs;        // [rope_dim/2]
  int num_tokens;
  int num_heads;
  int head_dim;
  int rope_dim;
  float eps;
};

}  // namespace dsv4
