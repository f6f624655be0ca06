// mHC before a sub-layer (spec 2.3, steps 1–5 without the norm): projection of the 4·d stream values, Sinkhorn, and the collapse to one
// row. m = (fn · v) · rsqrt(mean(v²) + norm_eps);  x = bf( Σ_h pre[h]·streams[h] ).
#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace dsv4 {

struct MhcPreParams {
  const Bf16* streams;  // [num_tokens, hc_mult, hidden_size]
  const float* fn;      // [hc_mult·(2 + hc_mult), hc_mult·hidden_size]
  const float* base;    // [hc_mult·(2 + hc_mult)]
  const float* scale;   // [3]: pre, post, comb
  Bf16* x;              // [num_tokens, hidden_size], out: sub-layer input before its norm
  float* post;          // [num_tokens, hc_mult], out
  float* comb;          // [num_tokens, hc_mult, hc_mult], out: A[i][j] after Sinkhorn
  int num_tokens;
  int hc_mult;  // at most 8
  int hidden_size;
  int sinkhorn_iters;
  float norm_eps;
  float hc_eps;
};

}  // namespace dsv4
