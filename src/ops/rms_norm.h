// RMS norm with weight (spec 2.1): out = bf( x · rsqrt(mean(x²) + eps) · weight ), all in fp32 before the one rounding.
#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace dsv4 {

struct RmsNormParams {
  const Bf16* x;       // [num_rows, dim]
  const Bf16* weight;  // [dim]
  Bf16* out;           // [num_rows, dim], may be x
  int num_rows;
  int dim;
  float eps;
};

}  // namespace dsv4
