// mHC after a sub-layer (spec 2.3, step 7): streams[j] = bf( post[j]·y + Σ_i comb[i][j]·streams_old[i] ), fp32 before the rounding.
#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace dsv4 {

struct MhcPostParams {
  const Bf16* y;      // [num_tokens, hidden_size], sub-layer output
  const float* post;  // [num_tokens, hc_mult]
  const float* comb;  // [num_tokens, hc_mult, hc_mult]
  Bf16* streams;      // [num_tokens, hc_mult, hidden_size], in place
  int num_tokens;
  int hc_mult;  // at most 8
  int hidden_size;
};

}  // namespace dsv4
