// FP8 quantisation of activations (spec 3.3): per row and block of 128 columns s = 2^⌈log2(max(amax, 1e-4)/448)⌉, codes = e4m3_rn(x/s).
// The last block of a row may be shorter.
#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace dsv4 {

struct QuantizeParams {
  const Bf16* x;    // [num_rows, dim]
  uint8_t* codes;   // e4m3 [num_rows, dim], out
  uint8_t* scales;  // ue8m0 [num_rows, ⌈dim/128⌉], out
  int num_rows;
  int dim;
  Bf16* values = nullptr;  // [num_rows, dim], out on a GPU: code·scale, for Fp8Activation::values; nullptr: not wanted
};

}  // namespace dsv4
