// The formula of ops/attention.h in fp64 on the GPU, on the cache bytes as stored: for steps that are too long for the CPU op.
#pragma once

#include "ops/attention.h"

namespace dsv4::test {

// `params` as for the op, `out` aside; out: [num_tokens, num_heads, head_dim] fp64 in device memory, rotated back, not rounded. Returns
// once it is there. Throws Error.
void attention_reference(const AttentionParams& params, double* out);

}  // namespace dsv4::test
