#include "ops/rms_norm.h"

#include "backend/cpu/ops.h"
#include "cuda/support/gpu.h"
#include "support/compare.h"
#include "support/matrices.h"
#include "support/random_data.h"

namespace dsv4 {
namespace {

using test::DeviceArray;

constexpr float kEps = 1e-6f;

class RmsNormGpu : public test::GpuTest {};

// The sum runs in the CPU's order, so results are equal, not close.
TEST_F(RmsNormGpu, EqualsTheCpuBitForBit) {
  test::Random random(1);
  for (const int dim : {32, 96, 128, 512, 1024, 1536, 4096, 7168}) {
    for (const int num_rows : {1, 13}) {
      const size_t count = static_cast<size_t>(num_rows) * dim;
      std::vector<Bf16> x = test::random_bf16(random, count, 3.0f);
      std::fill_n(x.begin(), dim / 2, to_bf16(0.0f));
      const std::vector<Bf16> weight = test::random_bf16(random, dim);
      const DeviceArray<Bf16> gpu_x(gpu(), x), gpu_weight(gpu(), weight), out(gpu(), count);
      gpu().rms_norm({gpu_x.data(), gpu_weight.data(), out.data(), num_rows, dim, kEps});
      std::vector<Bf16> expected(count);
      cpu::rms_norm({x.data(), weight.data(), expected.data(), num_rows, dim, kEps});
      EXPECT_TRUE(test::same_bytes(out.host(), expected)) << num_rows << " rows of " << dim;
    }
  }
}

TEST_F(RmsNormGpu, WorksInPlaceAndOnZeros) {
  test::Random random(2);
  constexpr int kRows = 5, kDim = 1536;
  std::vector<Bf16> x = test::random_bf16(random, kRows * kDim);
  std::fill_n(x.begin() + kDim, kDim, to_bf16(0.0f));
  const std::vector<Bf16> weight = test::random_bf16(random, kDim);
  const DeviceArray<Bf16> gpu_x(gpu(), x), gpu_weight(gpu(), weight);
  gpu().rms_norm({gpu_x.data(), gpu_weight.data(), gpu_x.data(), kRows, kDim, kEps});
  cpu::rms_norm({x.data(), weight.data(), x.data(), kRows, kDim, kEps});
  EXPECT_TRUE(test::same_bytes(gpu_x.host(), x));
}

TEST_F(RmsNormGpu, WithQuantisationEqualsTheTwoOps) {
  test::Random random(3);
  for (const int dim : {128, 160, 1024, 1536, 7168}) {
    for (const int num_rows : {1, 6}) {
      const size_t count = static_cast<size_t>(num_rows) * dim, num_scales = static_cast<size_t>(num_rows) * ceil_div(dim, kFp8Block);
      const std::vector<Bf16> x = test::random_bf16(random, count, 20.0f), weight = test::random_bf16(random, dim);
      const DeviceArray<Bf16> gpu_x(gpu(), x), gpu_weight(gpu(), weight), out(gpu(), count), values(gpu(), count);
      const DeviceArray<uint8_t> codes(gpu(), count), scales(gpu(), num_scales);
      gpu().norm_quantize({{gpu_x.data(), gpu_weight.data(), out.data(), num_rows, dim, kEps},
                           {out.data(), codes.data(), scales.data(), num_rows, dim, values.data()}});
      std::vector<Bf16> expected(count);
      std::vector<uint8_t> expected_codes(count), expected_scales(num_scales);
      cpu::rms_norm({x.data(), weight.data(), expected.data(), num_rows, dim, kEps});
      cpu::quantize({expected.data(), expected_codes.data(), expected_scales.data(), num_rows, dim});
      EXPECT_TRUE(test::same_bytes(out.host(), expected)) << num_rows << " rows of " << dim;
      EXPECT_TRUE(test::same_bytes(codes.host(), expected_codes)) << num_rows << " rows of " << dim;
      EXPECT_TRUE(test::same_bytes(scales.host(), expected_scales)) << num_rows << " rows of " << dim;
      EXPECT_TRUE(test::same_bytes(values.host(), test::fp8_values(expected_codes, expected_scales, dim)))
          << num_rows << " rows of " << dim;
    }
  }
}

TEST_F(RmsNormGpu, NoRowsNothingToDoAndOddDimensionsAreRefused) {
  const DeviceArray<Bf16> x(gpu(), size_t{128});
  const std::vector<Bf16> before = x.host();
  gpu().rms_norm({x.data(), x.data(), x.data(), 0, 128, kEps});
  EXPECT_TRUE(test::same_bytes(x.host(), before));
  EXPECT_ANY_THROW(gpu().rms_norm({x.data(), x.data(), x.data(), 1, 100, kEps}));
}

}  // namespace
}  // namespace dsv4
