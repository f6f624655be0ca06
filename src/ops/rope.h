// Rotary embedding with YaRN (spec 2.4). Interleaved pairs in the trailing rope dims; θ = fp32(position)·freq rounded to fp32 before cos
// and sin; the inverse uses −sinθ. The frequencies of a layer are computed once, on the host; the rotation itself is part of query_norm,
// kv_store, compress, indexer_query and attention.
#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace dsv4 {

struct RopeConfig {
  int rope_dim;  // R, 64
  float base;    // rope_theta or compress_rope_theta
  bool yarn;     // only in CSA and HCA layers
  float factor;  // YaRN: rope_scaling.factor
  int original_max_position_embeddings;
  float beta_fast;
  float beta_slow;
};

// Fills freqs[rope_dim/2] with f_i, every operation rounded to fp32 as the reference does.
void rope_frequencies(const RopeConfig& config, float* freqs);

}  // namespace dsv4
