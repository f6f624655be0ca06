// Collapse of the streams before the head (spec 2.12): pre_i = sigmoid(m_i·scale[0] + base[i]) + hc_eps with m as in mhc_pre, x = bf( Σ
// pre_i·S_i ).
#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace dsv4 {

struct MhcHeadParams {
  const Bf16* streams;  // [num_tokens, hc_mult, hidden_size]
  const float* fn;      // [hc_mult, hc_mult·hidden_size]
  const float* base;    // [hc_mult]
  const float* scale;   // [1]
  Bf16* x;              // [num_tokens, hidden_size], out, before the final norm
  int num_tokens;
  int hc_mult;  // at most 8
  int hidden_size;
  float norm_eps;
  float hc_eps;
};

}  // namespace dsv4
