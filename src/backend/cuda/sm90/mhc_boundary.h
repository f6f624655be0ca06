// The kernel between two sub-layers (mhc_pre.cu), which all mHC ops launch with the parts they do not need left out.
#pragma once

#include <cstdint>

#include "backend/cuda/runtime/launch.h"
#include "base/dtype.h"
#include "ops/combine.h"
#include "ops/mhc_head.h"
#include "ops/mhc_post.h"
#include "ops/mhc_pre.h"
#include "ops/quantize.h"
#include "ops/rms_norm.h"

namespace dsv4::cuda {

// Pointers as in the ops' params. A part whose first pointer is nullptr is left out.
struct MhcBoundary {
  // combine; with `post` its sum stays in registers
  const Bf16* routed = nullptr;
  const int32_t* experts = nullptr;
  const Bf16* shared = nullptr;
  Bf16* combined = nullptr;
  int num_selected = 0;
  // mhc_post
  const float* post = nullptr;
  const float* comb = nullptr;
  const Bf16* y = nullptr;
  // mhc_pre or, with 4 mixes and without next_post and next_comb, mhc_head
  const float* fn = nullptr;
  const float* base = nullptr;
  const float* scale = nullptr;
  Bf16* x = nullptr;
  float* next_post = nullptr;
  float* next_comb = nullptr;
  int num_mixes = 0;
  int sinkhorn_iters = 0;
  float mix_eps = 0.0f;
  float hc_eps = 0.0f;
  // rms_norm of x; with it x itself is not written
  const Bf16* norm_weight = nullptr;
  Bf16* normed = nullptr;
  float rms_eps = 0.0f;
  // quantize
  uint8_t* codes = nullptr;
  uint8_t* scales = nullptr;
  Bf16* values = nullptr;

  Bf16* streams = nullptr;  // [num_tokens, 4, hidden_size], written by mhc_post only
  int num_tokens = 0;
  int hidden_size = 0;

  // Set by the launch.
  int tile_tokens = 0;        // that a cluster computes at a time
  int tiles_per_cluster = 0;  // one after the other
  int num_ranks = 0;          // CTAs of a cluster
  int columns = 0;            // of a CTA in every stream
  int blocks = 0;             // of 128 columns in them
  int row_bytes = 0;          // of a token in the stream tile: 64 more than its values, so that 8 rows meet all banks

  void set(const CombineParams& params);
  void set(const char* op, const MhcPostParams& params);
  void set(const char* op, const MhcPreParams& params);
  void set(const char* op, const MhcHeadParams& params);
  void set(const char* op, const RmsNormParams& params);
  void set(const QuantizeParams& params);
};

// Launches the parts that are set. Throws Error on dimensions that the kernel does not support.
void launch_boundary(Context& context, const char* op, MhcBoundary boundary);

}  // namespace dsv4::cuda
