// Powers of two. PTX ISA, "Floating Point Instructions: ex2".
#pragma once

namespace dsv4::cuda::ptx {

// 2^x with a relative error of about 2^-22; results below 2^-126 are 0, 2^−∞ is 0.
__device__ __forceinline__ float exp2_approx(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}

}  // namespace dsv4::cuda::ptx
