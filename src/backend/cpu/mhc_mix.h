// What mhc_pre and mhc_head share (spec 2.3 steps 1, 2, 5 and 2.12): the projection of one token's streams and their collapse to one row.
#pragma once

#include "base/dtype.h"

namespace dsv4::cpu {

inline constexpr int kMaxHcMult = 8;
inline constexpr int kMaxMixes = kMaxHcMult * (2 + kMaxHcMult);

// m[j] = (fn[j]·v) · rsqrt(mean(v²) + norm_eps) in fp32. v [width], fn [num_mixes, width], m [num_mixes].
void mhc_mixes(const float* v, const float* fn, int num_mixes, int width, float norm_eps, float* m);

// x = bf( Σ_h weights[h]·v[h] ). v [hc_mult, dim], weights [hc_mult], x [dim].
void mhc_collapse(const float* v, const float* weights, int hc_mult, int dim, Bf16* x);

// 1 / (1 + e^−x)
float sigmoid(float x);

}  // namespace dsv4::cpu
