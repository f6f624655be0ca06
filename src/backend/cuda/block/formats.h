// Number formats in registers: bf16 pairs, e4m3 and ue8m0 codes, exact conversions between them (spec 3).
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "backend/cuda/ptx/convert.h"
#include "base/dtype.h"

namespace dsv4::cuda {

// 2^(code − 127), exact; code 0 is the subnormal 2^-127. Code 255 (NaN) is not a scale of a checked checkpoint.
__device__ __forceinline__ float scale_to_float(uint32_t code) {
  return __uint_as_float(code == 0 ? 0x00400000u : code << 23);
}

__device__ __forceinline__ float bf16_to_float(Bf16 value) {
  return __uint_as_float(static_cast<uint32_t>(value.bits) << 16);
}
__device__ __forceinline__ float low_to_float(uint32_t pair) {
  return __uint_as_float(pair << 16);
}
__device__ __forceinline__ float high_to_float(uint32_t pair) {
  return __uint_as_float(pair & 0xffff0000u);
}
__device__ __forceinline__ Bf16 float_to_bf16(float value) {
  Bf16 rounded;
  rounded.bits = __bfloat16_as_ushort(__float2bfloat16_rn(value));
  return rounded;
}
// Nearest bf16, as fp32.
__device__ __forceinline__ float round_to_bf16(float value) {
  return __bfloat162float(__float2bfloat16_rn(value));
}

__device__ __forceinline__ uint32_t multiply_bf16x2(uint32_t a, uint32_t b) {
  const __nv_bfloat162 product = __hmul2_rn(reinterpret_cast<const __nv_bfloat162&>(a), reinterpret_cast<const __nv_bfloat162&>(b));
  return reinterpret_cast<const uint32_t&>(product);
}

// 2^(code − 127) as two equal bf16, exact. Code 255 is not a scale of a checked checkpoint.
__device__ __forceinline__ uint32_t bf16_scale_pair(uint32_t code) {
  return code == 0 ? 0x00400040u : code * 0x00800080u;
}

// Two bf16 of four e4m3 codes (bytes 0, 1 → out[0], bytes 2, 3 → out[1]), exact, subnormals included: the code's exponent and mantissa bits
// are a bf16 that is 2^120 too small.
__device__ __forceinline__ void e4m3x4_to_bf16(uint32_t codes, uint32_t (&out)[2]) {
  const uint32_t low = __byte_perm(codes, 0, 0x1404);   // byte 0 → bits 8–15, byte 1 → bits 24–31
  const uint32_t high = __byte_perm(codes, 0, 0x3424);  // bytes 2 and 3
  constexpr uint32_t kTwoTo120 = 0x7b807b80;
  out[0] = multiply_bf16x2((low & 0x80008000u) | ((low & 0x7f007f00u) >> 4), kTwoTo120);
  out[1] = multiply_bf16x2((high & 0x80008000u) | ((high & 0x7f007f00u) >> 4), kTwoTo120);
}

// The same times a scale (bf16_scale_pair): codes and scale make a bf16, exactly.
__device__ __forceinline__ uint2 e4m3x4_values(uint32_t codes, uint32_t scale_pair) {
  uint32_t wide[2];
  e4m3x4_to_bf16(codes, wide);
  return {multiply_bf16x2(wide[0], scale_pair), multiply_bf16x2(wide[1], scale_pair)};
}

// 2^(code − 127) of byte `i` of four codes as two equal f16: exact from 2^-24 to 2^15, below that 0, above it 65,504.
__device__ __forceinline__ uint32_t f16_scale_pair(uint32_t codes, int i) {
  const float scale = __uint_as_float(__byte_perm(codes, 0, 0x0444 | i << 12) >> 1);  // the code as the exponent
  return ptx::convert_saturated_f16x2(scale, scale);
}

// f16 of four e4m3 codes times their scales (f16 pairs): bytes 0 and 1 → low, bytes 2 and 3 → high. Exact where the product is an f16.
__device__ __forceinline__ void scaled_f16x4(uint32_t codes, uint32_t scales, uint32_t& low, uint32_t& high) {
  ptx::convert_e4m3x4_to_f16(codes, low, high);
  low = ptx::multiply_f16x2(low, scales);
  high = ptx::multiply_f16x2(high, scales);
}

// f16 of a pair of bf16, nearest even.
__device__ __forceinline__ uint32_t bf16x2_to_f16x2(uint32_t pair) {
  return ptx::convert_f16x2(high_to_float(pair), low_to_float(pair));
}

// ue8m0 code of the FP8 quantisation scale of a block with maximum magnitude `amax` (spec 3.3): 2^⌈log2(max(amax, 1e-4)/448)⌉ by bits.
__device__ __forceinline__ uint32_t fp8_scale_code(float amax) {
  const uint32_t bits = __float_as_uint(__fmul_rn(fmaxf(amax, 1e-4f), 1.0f / 448.0f));
  return (bits >> 23) + ((bits & 0x7fffffu) != 0 ? 1 : 0);
}

// 2^(127 − code): the exact inverse of a scale, for 1 ≤ code ≤ 253.
__device__ __forceinline__ float inverse_scale(uint32_t code) {
  return __uint_as_float((254 - code) << 23);
}

}  // namespace dsv4::cuda
