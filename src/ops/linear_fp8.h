// FP8 linear L8 (spec 2.1): out[t, o] = bf( Σ_kb s_x[t, kb] · s_w[⌊o/128⌋, kb] · Σ_{k in kb} x[t, k]·w[o, k] ), outer sum in fp32.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "ops/weight.h"

namespace dsv4 {

struct LinearFp8Params {
  Fp8Activation x;   // [num_tokens, weight.cols], from quantize
  Fp8Weight weight;  // [out_features, in_features]
  Bf16* out;         // [num_tokens, weight.rows]
  int num_tokens;
};

}  // namespace dsv4
