// bf16 linear L16 (spec 2.1): out = bf( x·Wᵀ ) with fp32 accumulation, then, where out_scale ≠ 1, out = bf( out · out_scale ) (spec 2.7,
// κ).
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "ops/weight.h"

namespace dsv4 {

struct LinearBf16Params {
  const Bf16* x;      // [num_tokens, weight.cols]
  Bf16Weight weight;  // [out_features, in_features]
  Bf16* out;          // [num_tokens, weight.rows]
  int num_tokens;
  float out_scale;
};

}  // namespace dsv4
