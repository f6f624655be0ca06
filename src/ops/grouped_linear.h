// Grouped output projection wo_a (spec 2.10): z[t, g·N + n] = bf( Σ_k x[t, g, k] · bf16(W[g·N + n, k]) ), activations stay bf16.
// W is stored in FP8; dequantising it to bf16 is exact.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "ops/weight.h"

namespace dsv4 {

struct GroupedLinearParams {
  const Bf16* x;     // [num_tokens, num_groups, weight.cols]
  Fp8Weight weight;  // [num_groups · rows_per_group, in_features per group]
  Bf16* out;         // [num_tokens, weight.rows]
  int num_tokens;
  int num_groups;  // divides weight.rows
};

}  // namespace dsv4
