// The formula of ops/attention.h in fp64 on the GPU, on the cache bytes as stored: for steps that are too long for the CPU op.
#pragma once

#include "ops/attention.h"

namespace dsv4::test {

// `params` as for the op, its outputs aside; out: [num_tokens, num_heads, head_dim], rotated back, not rounded, and lse: [num_tokens,
// num_heads], fp64 in device memory. No row is padding. Returns once they are there. Throws Error.
void attention_reference(const AttentionParams& params, double* out, double* lse);

}  // namespace dsv4::test
