// Window entry (spec 2.5): k = bf(RMS(kv; weight)), RoPE at the row's position on the last dims, FP8 quantisation of the nope dims in
// blocks of 64, stored as an FP8 entry in the sequence's ring at position mod ring_size.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "ops/batch.h"
#include "ops/kv_layout.h"

namespace dsv4 {

struct KvStoreParams {
  const Bf16* kv;      // [num_tokens, head_dim], output of wkv
  const Bf16* weight;  // kv_norm [head_dim]
  const float* freqs;  // [kRopeDim/2]
  BatchView batch;
  WindowRing ring;
  int head_dim;
  float eps;
};

}  // namespace dsv4
