// Quantisation of blocks that lie in neighbouring lanes, eight values each (spec 3.3, 3.4). All lanes of a warp take part; lanes without
// data bring zeros.
#pragma once

#include "backend/cuda/block/bf16x8.h"

namespace dsv4::cuda {

// Largest magnitude in each aligned group of kLanes lanes.
template <int kLanes>
__device__ __forceinline__ float group_amax(const float (&x)[kChunk]) {
  float amax = 0.0f;
#pragma unroll
  for (int i = 0; i < kChunk; ++i) amax = fmaxf(amax, fabsf(x[i]));
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) amax = fmaxf(amax, __shfl_xor_sync(0xffffffffu, amax, distance));
  return amax;
}

// e4m3 codes of the lane's values (element 0 in the lowest byte) and the ue8m0 scale of its block of kLanes·8 values.
template <int kLanes>
__device__ __forceinline__ uint2 quantize_fp8x8(const float (&x)[kChunk], uint32_t& scale_code) {
  scale_code = fp8_scale_code(group_amax<kLanes>(x));
  const float inverse = inverse_scale(scale_code);  // a power of two: the products are exact
  uint32_t pairs[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) pairs[i] = ptx::convert_e4m3x2(x[2 * i + 1] * inverse, x[2 * i] * inverse);
  return {pairs[0] | (pairs[1] << 16), pairs[2] | (pairs[3] << 16)};
}

// The values of eight codes under a scale, as bf16: exact.
__device__ __forceinline__ uint4 fp8x8_values(uint2 codes, uint32_t scale_code) {
  const uint32_t scale_pair = bf16_scale_pair(scale_code);
  const uint2 low = e4m3x4_values(codes.x, scale_pair), high = e4m3x4_values(codes.y, scale_pair);
  return {low.x, low.y, high.x, high.y};
}

// ue8m0 code of the FP4 scale of a block with maximum magnitude `amax` (spec 3.4): 2^⌈log2(max(amax, 6·2^-126)/6)⌉ by bits.
__device__ __forceinline__ uint32_t fp4_scale_code(float amax) {
  const uint32_t bits = __float_as_uint(__fmul_rn(fmaxf(amax, 6.0f * 0x1p-126f), 1.0f / 6.0f));
  return (bits >> 23) + ((bits & 0x7fffffu) != 0 ? 1 : 0);
}

// e2m1 code: nearest, ties to the even code, saturating. Below 1 the grid is that of fp32 numbers near 2^22 (step 0.5); from 1 on the code
// is the exponent and the first mantissa bit.
__device__ __forceinline__ uint32_t float_to_e2m1_code(float x) {
  const float magnitude = fminf(fabsf(x), 6.0f);
  const uint32_t bits = __float_as_uint(magnitude);
  const uint32_t normal = ((bits + 0x1fffffu + ((bits >> 22) & 1u)) >> 22) - (126u << 1);
  const uint32_t subnormal = __float_as_uint(__fadd_rn(magnitude, 0x1p22f)) & 3u;
  return (magnitude < 1.0f ? subnormal : normal) | ((__float_as_uint(x) >> 28) & 8u);
}

// e2m1 pairs of the lane's values (element 0 in the lowest nibble) and the ue8m0 scale of its block of 32 values, 4 lanes.
__device__ __forceinline__ uint32_t quantize_fp4x8(const float (&x)[kChunk], uint32_t& scale_code) {
  scale_code = fp4_scale_code(group_amax<4>(x));
  const float inverse = inverse_scale(scale_code);
  uint32_t codes = 0;
#pragma unroll
  for (int i = 0; i < kChunk; ++i) codes |= float_to_e2m1_code(x[i] * inverse) << (4 * i);
  return codes;
}

}  // namespace dsv4::cuda
