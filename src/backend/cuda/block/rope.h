// Rotation of interleaved pairs (spec 2.4), with the rounding points of the CPU backend.
#pragma once

#include "backend/cuda/block/formats.h"

namespace dsv4::cuda {

// cos and sin of one angle.
struct Rotation {
  float cos, sin;
};

// The rotation of one pair at `position` (any int, padding's −1 included): θ = fp32(position)·freq rounded to fp32, then cos and sin of
// that θ, which double precision makes correctly rounded but for rare ties. θ is reduced by whole turns with a two-part π first and the
// rest is measured in half turns: sincospi then needs neither branches nor the stack of the general reduction.
__device__ __forceinline__ Rotation rope_rotation(int position, float freq) {
  constexpr double kInversePi = 0.31830988618379067154;
  constexpr double kPiHigh = 3.14159265358979311600;
  constexpr double kPiLow = 1.2246467991473531772e-16;
  const double angle = static_cast<double>(__fmul_rn(static_cast<float>(position), freq));
  const double half_turns = 2.0 * rint(angle * (0.5 * kInversePi));  // even: whole turns
  const double rest = fma(-half_turns, kPiLow, fma(-half_turns, kPiHigh, angle));
  double sine, cosine;
  sincospi(rest * kInversePi, &sine, &cosine);
  return {static_cast<float>(cosine), static_cast<float>(sine)};
}

// (a, b) ← (bf(a·cos − b·sin), bf(a·sin + b·cos)), products rounded one by one; both stay fp32 variables.
__device__ __forceinline__ void rotate(float& a, float& b, Rotation rotation) {
  const float x = __fsub_rn(__fmul_rn(a, rotation.cos), __fmul_rn(b, rotation.sin));
  const float y = __fadd_rn(__fmul_rn(a, rotation.sin), __fmul_rn(b, rotation.cos));
  a = round_to_bf16(x);
  b = round_to_bf16(y);
}

// The inverse: (bf(a·cos + b·sin), bf(b·cos − a·sin)).
__device__ __forceinline__ void rotate_back(float& a, float& b, Rotation rotation) {
  const float x = __fadd_rn(__fmul_rn(a, rotation.cos), __fmul_rn(b, rotation.sin));
  const float y = __fsub_rn(__fmul_rn(b, rotation.cos), __fmul_rn(a, rotation.sin));
  a = round_to_bf16(x);
  b = round_to_bf16(y);
}

}  // namespace dsv4::cuda
