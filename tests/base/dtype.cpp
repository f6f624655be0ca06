#include "base/dtype.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace dsv4 {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// The value of a small float from its fields, in double: sign, then `exponent_bits` with `bias`, then `mantissa_bits`; no infinities.
double small_float_value(int code, int exponent_bits, int mantissa_bits, int bias) {
  const int mantissa = code & ((1 << mantissa_bits) - 1);
  const int exponent = (code >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const double magnitude = exponent == 0 ? std::ldexp(mantissa, 1 - bias - mantissa_bits)
                                         : std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
  return (code >> (mantissa_bits + exponent_bits)) != 0 ? -magnitude : magnitude;
}
double e4m3_value(int code) {
  return small_float_value(code, 4, 3, 7);
}
double e2m1_value(int code) {
  return small_float_value(code, 2, 1, 1);
}

// The code whose value is nearest to |x| among 0 … max_code, ties to the even code, found by trying all; x's sign bit above it.
template <typename Value>
int nearest_code(float x, int max_code, int sign_bit, Value value) {
  const double magnitude = std::fabs(static_cast<double>(x));
  int best = 0;
  for (int code = 1; code <= max_code; ++code) {
    const double distance = std::fabs(value(code) - magnitude);
    const double best_distance = std::fabs(value(best) - magnitude);
    if (distance < best_distance || (distance == best_distance && code % 2 == 0)) best = code;
  }
  if (magnitude > value(max_code)) best = max_code;
  return best | (std::signbit(x) ? sign_bit : 0);
}

// Every finite bf16 value: zeros, subnormals and both signs included.
std::vector<float> finite_bf16_values() {
  std::vector<float> values;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float x = std::bit_cast<float>(bits << 16);
    if (std::isfinite(x)) values.push_back(x);
  }
  return values;
}

// Each value and each midpoint of neighbours, with the fp32 numbers just below and above, in both signs.
template <typename Value>
std::vector<float> boundary_values(int max_code, Value value) {
  std::vector<float> values;
  for (int code = 0; code <= max_code; ++code) {
    const double next = code < max_code ? value(code + 1) : 2 * value(code);
    for (const double centre : {value(code), (value(code) + next) / 2}) {
      const float x = static_cast<float>(centre);
      for (const float y : {x, std::nextafter(x, kInfinity), std::nextafter(x, -kInfinity)}) {
        values.push_back(y);
        values.push_back(-y);
      }
    }
  }
  return values;
}

TEST(DType, BytesAndNames) {
  const struct {
    DType dtype;
    size_t bytes;
    const char* name;
  } expected[] = {{DType::kF32, 4, "F32"}, {DType::kBf16, 2, "BF16"}, {DType::kF8E4M3, 1, "F8_E4M3"}, {DType::kF8E8M0, 1, "F8_E8M0"},
                  {DType::kI8, 1, "I8"},   {DType::kI32, 4, "I32"},   {DType::kI64, 8, "I64"}};
  for (const auto& [dtype, bytes, name] : expected) {
    EXPECT_EQ(dtype_bytes(dtype), bytes) << name;
    EXPECT_STREQ(dtype_name(dtype), name);
  }
}

TEST(Bf16, ToFloatIsExact) {
  for (const float x : finite_bf16_values()) EXPECT_EQ(std::bit_cast<uint32_t>(round_bf16(x)), std::bit_cast<uint32_t>(x));
}

TEST(Bf16, RoundsToNearestEven) {
  std::mt19937 random(1);
  std::vector<uint32_t> patterns = {0, 0x80000000u, 1, 0x7fff, 0x8000, 0x8001, 0x18000, 0x7f7f7fff, 0x3f808000, 0x3f818000};
  for (int i = 0; i < 100000; ++i) patterns.push_back(static_cast<uint32_t>(random()));
  for (const uint32_t pattern : patterns) {
    const float x = std::bit_cast<float>(pattern);
    if (!std::isfinite(x)) continue;
    const float low = std::bit_cast<float>(pattern & 0xffff0000u);  // next towards zero
    const uint32_t high_bits = (pattern & 0xffff0000u) + 0x10000u;
    const double high = std::isfinite(std::bit_cast<float>(high_bits)) ? std::bit_cast<float>(high_bits) : std::copysign(0x1p128, x);
    const double down = std::fabs(static_cast<double>(x) - low);
    const double up = std::fabs(high - x);
    const bool low_is_even = ((pattern >> 16) & 1u) == 0;
    const uint32_t expected = down < up || (down == up && low_is_even) ? pattern >> 16 : high_bits >> 16;
    EXPECT_EQ(to_bf16(x).bits, expected) << std::hexfloat << x;
  }
}

TEST(Bf16, SpecialValues) {
  EXPECT_EQ(to_bf16(kInfinity).bits, 0x7f80);
  EXPECT_EQ(to_bf16(-kInfinity).bits, 0xff80);
  EXPECT_EQ(to_bf16(std::numeric_limits<float>::max()).bits, 0x7f80);
  EXPECT_EQ(to_bf16(-0.0f).bits, 0x8000);
  for (const uint32_t nan : {0x7f800001u, 0x7fc00000u, 0x7fffffffu, 0xff800001u, 0xffffffffu}) {
    EXPECT_TRUE(std::isnan(round_bf16(std::bit_cast<float>(nan)))) << std::hex << nan;
  }
}

TEST(E4M3, DecodesEveryCode) {
  for (int code = 0; code < 256; ++code) {
    const float x = e4m3_to_float(static_cast<uint8_t>(code));
    if ((code & 0x7f) == 0x7f) {
      EXPECT_TRUE(std::isnan(x));
    } else {
      EXPECT_EQ(x, e4m3_value(code)) << code;
      EXPECT_EQ(std::signbit(x), code >= 128) << code;
    }
  }
  EXPECT_EQ(e4m3_to_float(0x7e), 448.0f);
  EXPECT_EQ(e4m3_to_float(0x08), 0x1p-6f);
  EXPECT_EQ(e4m3_to_float(0x01), 0x1p-9f);
}

TEST(E4M3, EncodesToTheNearestCode) {
  std::vector<float> values = finite_bf16_values();
  const std::vector<float> boundaries = boundary_values(0x7e, e4m3_value);
  values.insert(values.end(), boundaries.begin(), boundaries.end());
  for (const float x : values) ASSERT_EQ(float_to_e4m3(x), nearest_code(x, 0x7e, 0x80, e4m3_value)) << std::hexfloat << x;
}

TEST(E4M3, SaturatesAndKeepsNaN) {
  EXPECT_EQ(float_to_e4m3(448.0f), 0x7e);
  EXPECT_EQ(float_to_e4m3(-1e30f), 0xfe);
  EXPECT_EQ(float_to_e4m3(kInfinity), 0x7e);
  EXPECT_EQ(float_to_e4m3(-kInfinity), 0xfe);
  EXPECT_EQ(float_to_e4m3(kNaN), 0x7f);
  EXPECT_EQ(float_to_e4m3(std::copysign(kNaN, -1.0f)), 0xff);
  EXPECT_EQ(float_to_e4m3(-0.0f), 0x80);
}

TEST(E2M1, DecodesEveryCode) {
  for (int code = 0; code < 16; ++code) {
    const float x = e2m1_to_float(static_cast<uint8_t>(code));
    EXPECT_EQ(x, e2m1_value(code)) << code;
    EXPECT_EQ(std::signbit(x), code >= 8) << code;
    EXPECT_EQ(e2m1_to_float(static_cast<uint8_t>(code | 0xf0)), x) << "the high nibble is not looked at";
  }
}

TEST(E2M1, EncodesToTheNearestCode) {
  std::vector<float> values = finite_bf16_values();
  const std::vector<float> boundaries = boundary_values(7, e2m1_value);
  values.insert(values.end(), boundaries.begin(), boundaries.end());
  for (const float x : values) ASSERT_EQ(float_to_e2m1(x), nearest_code(x, 7, 8, e2m1_value)) << std::hexfloat << x;
}

// The ties that spec 3.4 lists.
TEST(E2M1, TiesOfTheSpecification) {
  const float ties[][2] = {{0.25f, 0.f}, {0.75f, 1.f}, {1.25f, 1.f}, {1.75f, 2.f}, {2.5f, 2.f}, {3.5f, 4.f}, {5.f, 4.f}};
  for (const auto& [x, expected] : ties) {
    EXPECT_EQ(e2m1_to_float(float_to_e2m1(x)), expected);
    EXPECT_EQ(e2m1_to_float(float_to_e2m1(-x)), -expected);
  }
  EXPECT_EQ(float_to_e2m1(kInfinity), 7);
  EXPECT_EQ(float_to_e2m1(-kInfinity), 15);
  EXPECT_EQ(float_to_e2m1(kNaN), 7);
}

TEST(Ue8m0, DecodesEveryCode) {
  for (int code = 0; code < 255; ++code) EXPECT_EQ(ue8m0_to_float(static_cast<uint8_t>(code)), std::ldexp(1.0, code - 127)) << code;
  EXPECT_TRUE(std::isnan(ue8m0_to_float(255)));
}

// ⌈log2(amax / max_value)⌉ + 127 without logarithms: the smallest power of two that is not below the quotient.
int exact_scale_code(double amax, double max_value) {
  int exponent = -200;
  while (max_value * std::ldexp(1.0, exponent) < amax) ++exponent;
  return exponent + 127;
}

TEST(BlockScale, Fp8IsTheExactCeilingForEveryBf16) {
  for (const float x : finite_bf16_values()) {
    if (std::signbit(x)) continue;
    const int expected = x > 1e-4f ? exact_scale_code(x, 448.0) : 127 - 22;
    ASSERT_EQ(fp8_block_scale(x), expected) << std::hexfloat << x;
  }
  EXPECT_EQ(fp8_block_scale(448.0f), 127);
  EXPECT_EQ(fp8_block_scale(0.0f), 127 - 22);
}

TEST(BlockScale, Fp4IsTheExactCeilingForEveryBf16) {
  for (const float x : finite_bf16_values()) {
    if (std::signbit(x)) continue;
    const int expected = x > 6.0f * 0x1p-126f ? exact_scale_code(x, 6.0) : 1;
    ASSERT_EQ(fp4_block_scale(x), expected) << std::hexfloat << x;
  }
  EXPECT_EQ(fp4_block_scale(6.0f), 127);
  EXPECT_EQ(fp4_block_scale(0.0f), 1);
}

// Spec 4.2 and 4.3 call the stored entries lossless: a simulated value is a fixed point of quantising again.
TEST(BlockScale, QuantisingTwiceChangesNothing) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal(0.0f, 1.0f);
  for (int block = 0; block < 2000; ++block) {
    float x[64];
    float amax = 0.0f;
    const float spread = std::ldexp(1.0f, static_cast<int>(random() % 40) - 20);
    for (float& value : x) amax = std::max(amax, std::fabs(value = round_bf16(normal(random) * spread)));
    const float scale = ue8m0_to_float(fp8_block_scale(amax));
    float again_amax = 0.0f;
    for (float& value : x) again_amax = std::max(again_amax, std::fabs(value = e4m3_to_float(float_to_e4m3(value / scale)) * scale));
    const float again_scale = ue8m0_to_float(fp8_block_scale(again_amax));
    for (const float value : x) {
      EXPECT_EQ(round_bf16(value), value);
      EXPECT_EQ(e4m3_to_float(float_to_e4m3(value / again_scale)) * again_scale, value);
    }
  }
}

}  // namespace
}  // namespace dsv4
