// fp32 linear L32 (spec 2.1): out = fp32(x)·fp32(W)ᵀ, both converted exactly from bf16, fp32 products and sums (no TF32), fp32 output.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "ops/weight.h"

namespace dsv4 {

struct LinearFp32Params {
  const Bf16* x;      // [num_tokens, weight.cols]
  Bf16Weight weight;  // [out_features, in_features]
  float* out;         // [num_tokens, weight.rows]
  int num_tokens;
};

}  // namespace dsv4
