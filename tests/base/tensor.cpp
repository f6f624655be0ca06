#include "base/tensor.h"

#include <gtest/gtest.h>

namespace dsv4 {
namespace {

TEST(Tensor, ShapesAsText) {
  EXPECT_EQ(shape_text({}), "[]");
  EXPECT_EQ(shape_text({256, 8}), "[256,8]");
}

TEST(Tensor, ElementsAreReadAsTheirOwnType) {
  const float values[3] = {1, 2, 3};
  const TensorView view = {DType::kF32, {3}, values, sizeof(values)};
  EXPECT_EQ(view.num_elements(), 3);
  EXPECT_EQ(view.as<float>(), values);
  EXPECT_THROW(view.as<int32_t>(), Error);
  EXPECT_THROW(view.as<uint8_t>(), Error);
}

TEST(Tensor, QuantisedElementsAreBytes) {
  const uint8_t bytes[4] = {};
  for (const DType dtype : {DType::kF8E4M3, DType::kF8E8M0, DType::kI8}) {
    const TensorView view = {dtype, {4}, bytes, sizeof(bytes)};
    EXPECT_EQ(view.as<uint8_t>(), bytes);
    EXPECT_EQ(view.num_elements(), 4);
    EXPECT_THROW(view.as<Bf16>(), Error);
  }
  const TensorView int8 = {DType::kI8, {4}, bytes, sizeof(bytes)};
  EXPECT_NE(int8.as<int8_t>(), nullptr);
}

}  // namespace
}  // namespace dsv4
