// Input streams of an MTP block (spec 2.12): streams[t, h] = bf( e[t] + g[t, h] ), e and g the outputs of e_proj and h_proj.
#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace dsv4 {

struct MtpJoinParams {
  const Bf16* e;  // [num_tokens, hidden_size]
  const Bf16* g;  // [num_tokens, hc_mult, hidden_size]
  Bf16* streams;  // [num_tokens, hc_mult, hidden_size], out
  int num_tokens;
  int hc_mult;
  int hidden_size;
};

}  // namespace dsv4
