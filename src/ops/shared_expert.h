// Shared expert (spec 2.11, step 5): as a routed expert with L8 weights, the same clamps and no routing weight.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "ops/weight.h"

namespace dsv4 {

struct SharedExpertParams {
  Fp8Activation x;  // [num_tokens, w1.cols], from quantize
  Fp8Weight w1;     // [intermediate_size, hidden_size]
  Fp8Weight w2;     // [hidden_size, intermediate_size]
  Fp8Weight w3;     // [intermediate_size, hidden_size]
  Bf16* out;        // [num_tokens, hidden_size]
  int num_tokens;
  float swiglu_limit;
  void* scratch = nullptr;  // experts_scratch_bytes(num_tokens, 0, 1, intermediate_size), for backends that need it
};

}  // namespace dsv4
