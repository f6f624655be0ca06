#include "base/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/compare.h"
#include "support/random_data.h"

namespace dsv4 {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Magnitude of an e4m3 code 0…0x7e from its fields, in double.
double e4m3_magnitude(int code) {
  const int exponent = code >> 3, mantissa = code & 7;
  return exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
}

// The nearest of the magnitudes value(0) < … < value(last), ties to the even code.
template <class Value>
int nearest_code(double magnitude, int last, Value&& value) {
  int best = 0;
  for (int code = 1; code <= last; ++code) {
    const double distance = std::fabs(value(code) - magnitude), best_distance = std::fabs(value(best) - magnitude);
    if (distance < best_distance || (distance == best_distance && code % 2 == 0)) best = code;
  }
  return best;
}

TEST(Dtype, SizesAndNames) {
  EXPECT_EQ(dtype_bytes(DType::kF32), 4u);
  EXPECT_EQ(dtype_bytes(DType::kBf16), 2u);
  EXPECT_EQ(dtype_bytes(DType::kF8E4M3), 1u);
  EXPECT_EQ(dtype_bytes(DType::kF8E8M0), 1u);
  EXPECT_EQ(dtype_bytes(DType::kI8), 1u);
  EXPECT_EQ(dtype_bytes(DType::kI32), 4u);
  EXPECT_EQ(dtype_bytes(DType::kI64), 8u);
  EXPECT_STREQ(dtype_name(DType::kF32), "F32");
  EXPECT_STREQ(dtype_name(DType::kBf16), "BF16");
  EXPECT_STREQ(dtype_name(DType::kF8E4M3), "F8_E4M3");
  EXPECT_STREQ(dtype_name(DType::kF8E8M0), "F8_E8M0");
  EXPECT_STREQ(dtype_name(DType::kI8), "I8");
  EXPECT_STREQ(dtype_name(DType::kI32), "I32");
  EXPECT_STREQ(dtype_name(DType::kI64), "I64");
}

TEST(Dtype, Bf16DecodesAllPatterns) {
  for (uint32_t pattern = 0; pattern < 0x10000; ++pattern) {
    const float value = to_float(Bf16{static_cast<uint16_t>(pattern)});
    const int exponent = static_cast<int>(pattern >> 7) & 0xff, mantissa = static_cast<int>(pattern & 0x7f);
    if (exponent == 0xff) {
      EXPECT_EQ(std::isnan(value), mantissa != 0) << pattern;
      EXPECT_EQ(std::isinf(value), mantissa == 0) << pattern;
    } else {
      const double magnitude = exponent == 0 ? std::ldexp(mantissa, -133) : std::ldexp(128 + mantissa, exponent - 134);
      ASSERT_EQ(value, (pattern & 0x8000 ? -magnitude : magnitude)) << pattern;
    }
    ASSERT_EQ(std::signbit(value), (pattern & 0x8000) != 0) << pattern;
    if (std::isnan(value)) {
      ASSERT_EQ(to_bf16(value).bits, pattern | 0x40) << "a NaN becomes quiet and keeps its other bits";
    } else {
      ASSERT_EQ(to_bf16(value).bits, pattern);
    }
  }
}

TEST(Dtype, Bf16RoundsTiesToEven) {
  // Between every finite pattern and its neighbour away from zero (for the largest one, infinity).
  for (uint32_t pattern = 0; pattern < 0x7f80; ++pattern) {
    const float middle = std::bit_cast<float>(pattern << 16 | 0x8000u);
    const uint16_t even = static_cast<uint16_t>(pattern % 2 == 0 ? pattern : pattern + 1);
    for (const uint32_t sign : {0u, 0x8000u}) {
      const float direction = sign ? -1.0f : 1.0f;
      ASSERT_EQ(to_bf16(direction * middle).bits, even | sign) << pattern;
      ASSERT_EQ(to_bf16(direction * std::nextafter(middle, 0.0f)).bits, pattern | sign) << pattern;
      ASSERT_EQ(to_bf16(direction * std::nextafter(middle, kInfinity)).bits, (pattern + 1) | sign) << pattern;
    }
  }
  EXPECT_EQ(to_bf16(std::numeric_limits<float>::max()).bits, 0x7f80);
  // A NaN whose upper half alone would read as infinity.
  EXPECT_TRUE(std::isnan(round_bf16(std::bit_cast<float>(0x7f800001u))));
}

TEST(Dtype, E4M3DecodesAllCodes) {
  for (int code = 0; code < 256; ++code) {
    const float value = e4m3_to_float(static_cast<uint8_t>(code));
    EXPECT_EQ(std::signbit(value), code >= 0x80) << code;
    if ((code & 0x7f) == 0x7f) {
      EXPECT_TRUE(std::isnan(value)) << code;
      continue;
    }
    EXPECT_EQ(std::fabs(value), e4m3_magnitude(code & 0x7f)) << code;
    EXPECT_EQ(float_to_e4m3(value), code);
  }
  EXPECT_EQ(e4m3_to_float(0x7e), 448.0f);
  EXPECT_EQ(e4m3_to_float(0x08), 0x1p-6f);
  EXPECT_EQ(e4m3_to_float(0x01), 0x1p-9f);
}

TEST(Dtype, E4M3RoundsTiesToEven) {
  for (int code = 0; code < 0x7e; ++code) {
    const float middle = static_cast<float>((e4m3_magnitude(code) + e4m3_magnitude(code + 1)) / 2);
    const int even = code % 2 == 0 ? code : code + 1;
    EXPECT_EQ(float_to_e4m3(middle), even);
    EXPECT_EQ(float_to_e4m3(-middle), even | 0x80);
    EXPECT_EQ(float_to_e4m3(std::nextafter(middle, 0.0f)), code);
    EXPECT_EQ(float_to_e4m3(std::nextafter(middle, kInfinity)), code + 1);
    EXPECT_EQ(float_to_e4m3(-std::nextafter(middle, kInfinity)), (code + 1) | 0x80);
  }
}

TEST(Dtype, E4M3SaturatesAndKeepsSigns) {
  for (const float large : {448.0f, std::nextafter(448.0f, kInfinity), 464.0f, 480.0f, 1e30f, kInfinity}) {
    EXPECT_EQ(float_to_e4m3(large), 0x7e) << large;
    EXPECT_EQ(float_to_e4m3(-large), 0xfe) << large;
  }
  EXPECT_EQ(float_to_e4m3(0.0f), 0x00);
  EXPECT_EQ(float_to_e4m3(-0.0f), 0x80);
  EXPECT_EQ(float_to_e4m3(std::numeric_limits<float>::denorm_min()), 0x00);
  EXPECT_EQ(float_to_e4m3(-0x1p-126f), 0x80);
  EXPECT_EQ(float_to_e4m3(kNan), 0x7f);
  EXPECT_EQ(float_to_e4m3(-kNan), 0xff);
}

TEST(Dtype, E4M3IsTheNearestCode) {
  test::Random random(1);
  for (int i = 0; i < 20000; ++i) {
    const float value = std::ldexp(random.uniform(0.5f, 1.0f), random.below(22) - 12);
    ASSERT_EQ(float_to_e4m3(value), nearest_code(value, 0x7e, e4m3_magnitude)) << value;
  }
}

TEST(Dtype, E2M1AllCodesTiesAndSaturation) {
  const double values[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  for (int code = 0; code < 16; ++code) {
    const float value = e2m1_to_float(static_cast<uint8_t>(code));
    EXPECT_EQ(std::fabs(value), values[code & 7]);
    EXPECT_EQ(std::signbit(value), code >= 8);
    EXPECT_EQ(float_to_e2m1(value), code);
  }
  for (int code = 0; code < 7; ++code) {
    const float middle = static_cast<float>((values[code] + values[code + 1]) / 2);
    const int even = code % 2 == 0 ? code : code + 1;
    EXPECT_EQ(float_to_e2m1(middle), even) << middle;
    EXPECT_EQ(float_to_e2m1(-middle), even | 8) << middle;
    EXPECT_EQ(float_to_e2m1(std::nextafter(middle, 0.0f)), code) << middle;
    EXPECT_EQ(float_to_e2m1(std::nextafter(middle, kInfinity)), code + 1) << middle;
  }
  // The table of spec 3.4.
  const float ties[7][2] = {{0.25f, 0}, {0.75f, 1}, {1.25f, 1}, {1.75f, 2}, {2.5f, 2}, {3.5f, 4}, {5.0f, 4}};
  for (const auto& tie : ties) EXPECT_EQ(e2m1_to_float(float_to_e2m1(tie[0])), tie[1]);
  for (const float large : {6.0f, 7.0f, 1e30f, kInfinity}) {
    EXPECT_EQ(float_to_e2m1(large), 7);
    EXPECT_EQ(float_to_e2m1(-large), 15);
  }
  EXPECT_EQ(float_to_e2m1(kNan), 7);
  EXPECT_EQ(float_to_e2m1(-0.0f), 8);
  test::Random random(2);
  for (int i = 0; i < 20000; ++i) {
    const float value = random.uniform(0.0f, 8.0f);
    ASSERT_EQ(float_to_e2m1(value), nearest_code(value, 7, [&](int code) { return values[code]; })) << value;
  }
}

TEST(Dtype, Ue8m0AllCodes) {
  for (int code = 0; code < 255; ++code) EXPECT_EQ(ue8m0_to_float(static_cast<uint8_t>(code)), std::ldexp(1.0, code - 127)) << code;
  EXPECT_TRUE(std::isnan(ue8m0_to_float(255)));
}

// The smallest e with amax ≤ max_value·2^e, exactly (both sides are exact in double).
int exact_ceil_exponent(double amax, double max_value) {
  int exponent = -200;
  while (amax > std::ldexp(max_value, exponent)) ++exponent;
  return exponent;
}

TEST(Dtype, Fp8BlockScaleIsTheExactCeiling) {
  for (uint32_t pattern = 0; pattern < 0x7f80; ++pattern) {
    const float amax = to_float(Bf16{static_cast<uint16_t>(pattern)});
    const double floored = amax > 1e-4f ? amax : 1e-4f;
    ASSERT_EQ(fp8_block_scale(amax), 127 + exact_ceil_exponent(floored, 448.0)) << amax;
  }
  EXPECT_EQ(fp8_block_scale(0.0f), 127 - 22);
  EXPECT_EQ(fp8_block_scale(448.0f), 127);
  EXPECT_EQ(fp8_block_scale(450.0f), 128);
  EXPECT_EQ(fp8_block_scale(224.0f), 126);
}

TEST(Dtype, Fp4BlockScaleIsTheExactCeiling) {
  for (uint32_t pattern = 0; pattern < 0x7f80; ++pattern) {
    const float amax = to_float(Bf16{static_cast<uint16_t>(pattern)});
    const double floored = std::max<double>(amax, 6.0 * 0x1p-126);
    ASSERT_EQ(fp4_block_scale(amax), 127 + exact_ceil_exponent(floored, 6.0)) << amax;
  }
  EXPECT_EQ(fp4_block_scale(0.0f), 1);
  EXPECT_EQ(fp4_block_scale(6.0f), 127);
}

TEST(Dtype, QuantisedBlockNeverSaturatesBelowItsScale) {
  // For every bf16 amax the scaled value lies in (224, 448] (or below, where the floor holds), so that no value is clamped.
  for (uint32_t pattern = 1; pattern < 0x7f80; ++pattern) {
    const float amax = to_float(Bf16{static_cast<uint16_t>(pattern)});
    const double scaled = amax / static_cast<double>(ue8m0_to_float(fp8_block_scale(amax)));
    ASSERT_LE(scaled, 448.0) << amax;
    if (amax > 1e-4f) {
      ASSERT_GT(scaled, 224.0) << amax;
    }
  }
}

}  // namespace
}  // namespace dsv4
