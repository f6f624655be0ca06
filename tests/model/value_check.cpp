#include "model/value_check.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "support/error_of.h"

namespace dsv4 {
namespace {

template <typename T>
std::string check(DType dtype, const Shape& shape, const std::vector<T>& values, int num_experts = 0) {
  const TensorView view = {dtype, shape, values.data(), values.size() * sizeof(T)};
  return test::error_of([&] { check_values("t", view, num_experts); });
}

TEST(ValueCheck, AcceptsEveryFiniteCode) {
  std::vector<uint8_t> scales, e4m3, pairs;
  for (int code = 0; code < 256; ++code) {
    pairs.push_back(static_cast<uint8_t>(code));
    if (code != 255) scales.push_back(static_cast<uint8_t>(code));
    if ((code & 0x7f) != 0x7f) e4m3.push_back(static_cast<uint8_t>(code));
  }
  EXPECT_EQ(check(DType::kF8E8M0, {255}, scales), "");
  EXPECT_EQ(check(DType::kF8E4M3, {254}, e4m3), "");
  EXPECT_EQ(check(DType::kI8, {256}, pairs), "");
  EXPECT_EQ(check<float>(DType::kF32, {3}, {std::numeric_limits<float>::max(), std::numeric_limits<float>::denorm_min(), -0.0f}), "");
  EXPECT_EQ(check<Bf16>(DType::kBf16, {2}, {{0x7f7f}, {0x8001}}), "");
  EXPECT_EQ(check<int64_t>(DType::kI64, {2}, {0, 3}, 4), "");
}

TEST(ValueCheck, NamesTheElement) {
  std::vector<uint8_t> codes(3 * 5 * 1000, 1);
  codes[(1 * 5 + 4) * 1000 + 999] = 0xff;
  EXPECT_EQ(check(DType::kF8E8M0, {3, 5, 1000}, codes), "t: NaN (0xff) at [1,4,999]");
  EXPECT_EQ(check(DType::kF8E4M3, {3, 5, 1000}, codes), "t: NaN (0x7f or 0xff) at [1,4,999]");
  codes[(1 * 5 + 4) * 1000 + 999] = 1;
  codes[0] = 0x7f;
  EXPECT_EQ(check(DType::kF8E4M3, {3, 5, 1000}, codes), "t: NaN (0x7f or 0xff) at [0,0,0]");
  EXPECT_EQ(check(DType::kF8E8M0, {3, 5, 1000}, codes), "");
}

TEST(ValueCheck, FloatsMustBeFinite) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(check<float>(DType::kF32, {2, 2}, {0, 0, infinity, 0}), "t: inf, expected a finite value, at [1,0]");
  EXPECT_EQ(check<float>(DType::kF32, {4}, {0, 0, 0, -infinity}), "t: -inf, expected a finite value, at [3]");
  EXPECT_EQ(check<float>(DType::kF32, {1}, {std::numeric_limits<float>::quiet_NaN()}), "t: nan, expected a finite value, at [0]");
  EXPECT_EQ(check<Bf16>(DType::kBf16, {3}, {{0x3f80}, {0x7f80}, {0}}), "t: inf, expected a finite value, at [1]");
  EXPECT_EQ(check<Bf16>(DType::kBf16, {3}, {{0x3f80}, {0}, {0x7fc1}}), "t: nan, expected a finite value, at [2]");
}

// The last element of a long tensor, behind whole blocks of the search.
TEST(ValueCheck, SearchesToTheEnd) {
  std::vector<float> values(3 * 4096 + 1, 1.0f);
  values.back() = std::numeric_limits<float>::infinity();
  EXPECT_EQ(check(DType::kF32, {3 * 4096 + 1}, values), "t: inf, expected a finite value, at [12288]");
}

TEST(ValueCheck, ExpertIdsMustExist) {
  EXPECT_EQ(check<int64_t>(DType::kI64, {2, 2}, {0, 1, 4, 0}, 4), "t: expert 4, expected 0 to 3, at [1,0]");
  EXPECT_EQ(check<int64_t>(DType::kI64, {2, 2}, {0, -1, 3, 0}, 4), "t: expert -1, expected 0 to 3, at [0,1]");
}

TEST(ValueCheck, EmptyTensorsHoldNothingWrong) {
  EXPECT_EQ(check<uint8_t>(DType::kF8E8M0, {0, 4}, {}), "");
  EXPECT_EQ(check<float>(DType::kF32, {0}, {}), "");
}

}  // namespace
}  // namespace dsv4
