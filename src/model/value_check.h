// Contents of a tensor that no model can have.
#pragma once

#include <string_view>

#include "base/tensor.h"

namespace dsv4 {

// Refuses NaN scales (F8_E8M0 0xFF), NaN FP8 weights, NaN and infinite F32 and BF16 values, and I64 expert ids outside [0, num_experts).
// Throws Error "NAME: what at [index]", e.g. "layers.3.attn.wq_b.scale: NaN (0xff) at [2,7]".
void check_values(std::string_view name, const TensorView& tensor, int num_experts);

}  // namespace dsv4
