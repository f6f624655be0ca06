// Groups of ops that follow one another and that a device may run in fewer launches than ops. A group computes what its ops compute one
// after the other, in the order of the members; buffers that only carry values from one of its ops to the next are not defined afterwards.
#pragma once

#include <span>

#include "ops/combine.h"
#include "ops/compress.h"
#include "ops/experts.h"
#include "ops/linear_bf16.h"
#include "ops/linear_fp32.h"
#include "ops/linear_fp8.h"
#include "ops/mhc_head.h"
#include "ops/mhc_post.h"
#include "ops/mhc_pre.h"
#include "ops/quantize.h"
#include "ops/rms_norm.h"
#include "ops/shared_expert.h"

namespace dsv4 {

// Between two sub-layers: the output of one goes into the streams, the streams become the input of the next (spec 2.3).
struct BoundaryParams {
  const CombineParams* combine;  // makes post->y; nullptr: y is there
  const MhcPostParams* post;     // nullptr: nothing came before
  const MhcPreParams* pre;       // with norm (of pre->x) and quantize (of norm->out); nullptr, all three: nothing follows. post and comb
  const RmsNormParams* norm;     // that it writes must not be those that `post` reads
  const QuantizeParams* quantize;
};

// Products that do not depend on each other.
struct LinearGroupParams {
  std::span<const LinearFp8Params> fp8;
  std::span<const LinearBf16Params> bf16;
  std::span<const LinearFp32Params> fp32;
};

struct NormQuantizeParams {
  RmsNormParams norm;
  QuantizeParams quantize;  // of norm.out
};

struct HeadNormParams {
  MhcHeadParams head;
  RmsNormParams norm;  // of head.x
};

// Compressors that do not depend on each other.
struct CompressGroupParams {
  std::span<const CompressParams> compressors;  // at most 2
};

// The experts of a layer.
struct MoeParams {
  ExpertsParams routed;
  SharedExpertParams shared;
};

}  // namespace dsv4
