// Rotation of one row's trailing rope dims (spec 2.4): a building block of query_norm, kv_store, compress, indexer_query and attention.
#pragma once

#include <cstdint>

#include "ops/kv_layout.h"

namespace dsv4::cpu {

// cos and sin of one position's angles, one per pair; computed once per row and shared by its heads.
struct Rotation {
  float cos[kRopeDim / 2];
  float sin[kRopeDim / 2];
};

// θ_i = fp32(position)·freqs[i] rounded to fp32, then accurate fp32 cos and sin. rope_dim: even, at most kRopeDim; freqs [rope_dim/2].
Rotation make_rotation(int32_t position, const float* freqs, int rope_dim);

// (a, b) → (a·cos − b·sin, a·sin + b·cos) on interleaved pairs of x [rope_dim] in place, fp32, results rounded to bf16.
void rotate(const Rotation& rotation, int rope_dim, float* x);

// The same with −sin, nothing rounded; then rounded.
void rotate_inverse_exact(const Rotation& rotation, int rope_dim, float* x);
void rotate_inverse(const Rotation& rotation, int rope_dim, float* x);

}  // namespace dsv4::cpu
