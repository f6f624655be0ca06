// Conversions of small floating-point formats. PTX ISA, "Data Movement and Conversion Instructions: cvt".
#pragma once

#include <cstdint>

namespace dsv4::cuda::ptx {

// e4m3 codes of two values, nearest even, saturating to ±448: `low` in the low byte.
__device__ __forceinline__ uint16_t convert_e4m3x2(float high, float low) {
  uint16_t codes;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(high), "f"(low));
  return codes;
}

// bf16 of two values, nearest even: `low` in the low half.
__device__ __forceinline__ uint32_t convert_bf16x2(float high, float low) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

// The same with negative values as +0.
__device__ __forceinline__ uint32_t convert_relu_bf16x2(float high, float low) {
  uint32_t pair;
  asm("cvt.rn.relu.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

}  // namespace dsv4::cuda::ptx
