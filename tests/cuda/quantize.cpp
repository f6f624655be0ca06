#include "ops/quantize.h"

#include "backend/cpu/ops.h"
#include "cuda/support/gpu.h"
#include "ops/weight.h"
#include "support/compare.h"
#include "support/matrices.h"
#include "support/random_data.h"

namespace dsv4 {
namespace {

using test::DeviceArray;

class QuantizeGpu : public test::GpuTest {
 protected:
  static void expect_like_cpu(const std::vector<Bf16>& x, int num_rows, int dim) {
    const size_t num_scales = static_cast<size_t>(num_rows) * ceil_div(dim, kFp8Block);
    const DeviceArray<Bf16> gpu_x(gpu(), x);
    const DeviceArray<uint8_t> codes(gpu(), x.size()), scales(gpu(), num_scales);
    const DeviceArray<Bf16> values(gpu(), x.size());
    gpu().quantize({gpu_x.data(), codes.data(), scales.data(), num_rows, dim, values.data()});
    std::vector<uint8_t> expected_codes(x.size()), expected_scales(num_scales);
    cpu::quantize({x.data(), expected_codes.data(), expected_scales.data(), num_rows, dim});
    EXPECT_TRUE(test::same_bytes(codes.host(), expected_codes)) << num_rows << " rows of " << dim;
    EXPECT_TRUE(test::same_bytes(scales.host(), expected_scales)) << num_rows << " rows of " << dim;
    EXPECT_TRUE(test::same_bytes(values.host(), test::fp8_values(expected_codes, expected_scales, dim))) << num_rows << " rows of " << dim;
  }
};

TEST_F(QuantizeGpu, EqualsTheCpuBitForBit) {
  test::Random random(1);
  for (const int dim : {8, 128, 136, 200, 1024, 1536, 4096, 7168, 16384}) {
    for (const int num_rows : {1, 7}) {
      std::vector<Bf16> x = test::random_bf16(random, static_cast<size_t>(num_rows) * dim);
      for (Bf16& value : x) value = to_bf16(std::ldexp(to_float(value), random.below(20) - 10));
      expect_like_cpu(x, num_rows, dim);
    }
  }
}

TEST_F(QuantizeGpu, EveryBf16Magnitude) {
  // Each finite value of both signs beside a block maximum near it and far above it, so that normal, subnormal and tied codes appear.
  std::vector<Bf16> x;
  for (const int maximum_distance : {0, 0x80, 0x400, 0x700}) {
    for (int bits = 0; bits < 0x7f80; ++bits) {
      if (bits % 127 == 0) x.push_back({static_cast<uint16_t>(std::min(bits + 127 + maximum_distance, 0x7f7f))});
      x.push_back({static_cast<uint16_t>(bits | (bits % 3 == 0 ? 0x8000 : 0))});
    }
    x.resize((x.size() + 127) / 128 * 128, Bf16{0});
  }
  expect_like_cpu(x, static_cast<int>(x.size() / 128), 128);
}

TEST_F(QuantizeGpu, ZerosHaveTheSmallestScale) {
  std::vector<Bf16> x(256, to_bf16(0.0f));
  x[130] = to_bf16(-0.0f);
  expect_like_cpu(x, 1, 256);
}

TEST_F(QuantizeGpu, NoRowsNothingToDo) {
  expect_like_cpu({}, 0, 128);
}

}  // namespace
}  // namespace dsv4
