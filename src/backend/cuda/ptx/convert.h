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

// f16 of two values, nearest even: `low` in the low half. Magnitudes of 65,520 and more become infinite.
__device__ __forceinline__ uint32_t convert_f16x2(float high, float low) {
  uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

// The same, but never infinite: larger magnitudes become 65,504.
__device__ __forceinline__ uint32_t convert_saturated_f16x2(float high, float low) {
  uint32_t pair;
  asm("cvt.rn.satfinite.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

// The f16 pair's halves as fp32.
__device__ __forceinline__ void widen_f16x2(uint32_t pair, float& high, float& low) {
  asm("{\n.reg .b16 l, h;\nmov.b32 {l, h}, %2;\ncvt.f32.f16 %0, l;\ncvt.f32.f16 %1, h;\n}\n" : "=f"(low), "=f"(high) : "r"(pair));
}

// f16 of four e4m3 codes, exact: bytes 0 and 1 → low, bytes 2 and 3 → high.
__device__ __forceinline__ void convert_e4m3x4_to_f16(uint32_t codes, uint32_t& low, uint32_t& high) {
  asm("{\n.reg .b16 l, h;\nmov.b32 {l, h}, %2;\ncvt.rn.f16x2.e4m3x2 %0, l;\ncvt.rn.f16x2.e4m3x2 %1, h;\n}\n"
      : "=r"(low), "=r"(high)
      : "r"(codes));
}

// Product of two f16 pairs, nearest even.
__device__ __forceinline__ uint32_t multiply_f16x2(uint32_t a, uint32_t b) {
  uint32_t product;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(product) : "r"(a), "r"(b));
  return product;
}

// bf16 of two values with negative values as +0.
__device__ __forceinline__ uint32_t convert_relu_bf16x2(float high, float low) {
  uint32_t pair;
  asm("cvt.rn.relu.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

}  // namespace dsv4::cuda::ptx
