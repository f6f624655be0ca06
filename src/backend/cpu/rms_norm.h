// RMS norm of one row (spec 2.1): a building block of rms_norm, kv_store and compress.
#pragma once

#include "base/dtype.h"

namespace dsv4::cpu {

// x ← bf( x · rsqrt(mean(x²) + eps) · weight ) in place, fp32 before the one rounding. x [dim], weight [dim].
void rms_norm_row(const Bf16* weight, int dim, float eps, float* x);

}  // namespace dsv4::cpu
