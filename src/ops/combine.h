// Sum of the expert outputs (spec 2.11, step 6): y = bf( Σ_selected fp32(out_e) + fp32(out_shared) ), fp32 sum in ascending expert id, the
// shared expert last.
#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace dsv4 {

struct CombineParams {
  const Bf16* routed;      // [num_tokens, num_selected, hidden_size], from experts
  const int32_t* experts;  // [num_tokens, num_selected]; a slot with a negative id (padding) adds nothing
  const Bf16* shared;      // [num_tokens, hidden_size]
  Bf16* out;               // [num_tokens, hidden_size]
  int num_tokens;
  int num_selected;
  int hidden_size;
};

}  // namespace dsv4
