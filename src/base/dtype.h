// Element types of checkpoints and caches, and their bit-exact codecs (spec section 3). Plain C++: kernels include this too.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace dsv4 {

enum class DType : uint8_t { kF32, kBf16, kF8E4M3, kF8E8M0, kI8, kI32, kI64 };

// Bytes of one element.
constexpr size_t dtype_bytes(DType dtype) {
  switch (dtype) {
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kBf16:
      return 2;
    case DType::kI64:
      return 8;
    default:
      return 1;
  }
}

// The safetensors spelling of a dtype ("BF16", "F8_E4M3", …).
constexpr const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "F32";
    case DType::kBf16:
      return "BF16";
    case DType::kF8E4M3:
      return "F8_E4M3";
    case DType::kF8E8M0:
      return "F8_E8M0";
    case DType::kI8:
      return "I8";
    case DType::kI32:
      return "I32";
    case DType::kI64:
      return "I64";
  }
  return "?";
}

// bfloat16 storage: the upper half of an fp32.
struct Bf16 {
  uint16_t bits;
};
static_assert(sizeof(Bf16) == 2);

inline float to_float(Bf16 x) {
  return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16);
}

// Rounds to nearest even; NaN stays NaN (quiet).
inline Bf16 to_bf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

// bf(x) of the spec: rounds to bf16 and back.
inline float round_bf16(float x) {
  return to_float(to_bf16(x));
}

// e4m3 (OCP "fn"): 0x7f and 0xff are NaN, the largest finite value is 448.
inline float e4m3_to_float(uint8_t code) {
  const uint32_t sign = static_cast<uint32_t>(code & 0x80u) << 24;
  const uint32_t exponent = (code >> 3) & 0xfu;
  const uint32_t mantissa = code & 0x7u;
  if (exponent == 0xf && mantissa == 0x7) return std::bit_cast<float>(sign | 0x7fc00000u);
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-9f;
    return sign ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | ((exponent + 120u) << 23) | (mantissa << 20));
}

// Rounds to nearest even and saturates to ±448; NaN gives 0x7f with x's sign.
uint8_t float_to_e4m3(float x);

// e2m1: codes 0..7 are 0 0.5 1 1.5 2 3 4 6, codes 8..15 their negatives.
inline constexpr float kE2M1Values[16] = {0.f, 0.5f, 1.f, 1.5f, 2.f, 3.f, 4.f, 6.f, -0.f, -0.5f, -1.f, -1.5f, -2.f, -3.f, -4.f, -6.f};
inline float e2m1_to_float(uint8_t code) {
  return kE2M1Values[code & 0xf];
}

// Rounds to nearest, ties to the even code, saturates to ±6 (cvt.rn.satfinite.e2m1x2). NaN gives +6.
uint8_t float_to_e2m1(float x);

// ue8m0: 2^(code-127); code 0 is 2^-127, 255 is NaN.
inline float ue8m0_to_float(uint8_t code) {
  if (code == 0) return std::bit_cast<float>(0x00400000u);
  if (code == 255) return std::bit_cast<float>(0x7fc00000u);
  return std::bit_cast<float>(static_cast<uint32_t>(code) << 23);
}

// The ue8m0 code of 2^⌈log2(amax / max_value)⌉, by the bit method of spec 3.3: amax · fp32(1/max_value) is formed in fp32, its exponent
// taken and raised by one where the mantissa is not zero. `amax` must already be floored as the format asks.
inline uint8_t ue8m0_ceil_scale(float amax, float inverse_max) {
  const uint32_t bits = std::bit_cast<uint32_t>(amax * inverse_max);
  return static_cast<uint8_t>((bits >> 23) + ((bits & 0x7fffffu) != 0 ? 1u : 0u));
}

// Scale code of an FP8 block (spec 3.3): amax is floored at 1e-4.
inline uint8_t fp8_block_scale(float amax) {
  return ue8m0_ceil_scale(amax > 1e-4f ? amax : 1e-4f, 1.0f / 448.0f);
}

// Scale code of an FP4 block (spec 3.4): amax is floored at 6·2^-126.
inline uint8_t fp4_block_scale(float amax) {
  return ue8m0_ceil_scale(amax > 6.0f * 0x1p-126f ? amax : 6.0f * 0x1p-126f, 1.0f / 6.0f);
}

}  // namespace dsv4
