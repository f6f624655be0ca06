#include "ops/backend.h"

namespace dsv4 {

void Backend::boundary(const BoundaryParams& params) {
  if (params.combine != nullptr) combine(*params.combine);
  if (params.post != nullptr) mhc_post(*params.post);
  if (params.pre == nullptr) return;
  mhc_pre(*params.pre);
  rms_norm(*params.norm);
  quantize(*params.quantize);
}

void Backend::linear_group(const LinearGroupParams& params) {
  for (const LinearFp8Params& linear : params.fp8) linear_fp8(linear);
  for (const LinearBf16Params& linear : params.bf16) linear_bf16(linear);
  for (const LinearFp32Params& linear : params.fp32) linear_fp32(linear);
}

void Backend::norm_quantize(const NormQuantizeParams& params) {
  rms_norm(params.norm);
  quantize(params.quantize);
}

void Backend::head_norm(const HeadNormParams& params) {
  mhc_head(params.head);
  rms_norm(params.norm);
}

void Backend::compress_group(const CompressGroupParams& params) {
  for (const CompressParams& compressor : params.compressors) compress(compressor);
}

void Backend::moe(const MoeParams& params) {
  experts(params.routed);
  shared_expert(params.shared);
}

}  // namespace dsv4
