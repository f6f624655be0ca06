#include "ops/linear_bf16.h"

#include "support/compare.h"
#include "support/gpu.h"
#include "support/matrices.h"

namespace dsv4::test {
namespace {

class LinearBf16Gpu : public GpuTest {};

// bf( bf(sum) · scale ): one rounding of the sum, one of the scaled value.
TEST_F(LinearBf16Gpu, RoundsTheSumAndTheScaledValue) {
  Random random(76);
  for (float scale : {1.0f, 0.011048543f}) {
    for (int tokens : {1, 17, 90}) {
      const Bf16Matrix matrix(random, 64, 4096), x(random, tokens, 4096);
      const Bf16Weight weight = gpu().import_bf16(matrix.view());
      gpu().finish_imports();
      const DeviceArray<Bf16> input(gpu(), x.data);
      DeviceArray<Bf16> out(gpu(), static_cast<size_t>(tokens) * 64);
      gpu().linear_bf16({input.data(), weight, out.data(), tokens, scale});
      const std::vector<Bf16> values = out.host();
      for (int t = 0; t < tokens; ++t) {
        for (int o = 0; o < 64; ++o) {
          const Dot sum = dot_rows(x, t, matrix, o);
          const Bf16 value = values[static_cast<size_t>(t) * 64 + o];
          const double slack = (bf16_half_ulp(sum.value) + sum.slack) * scale + (scale == 1.0f ? 0.0 : bf16_half_ulp(sum.value * scale));
          ASSERT_TRUE(close_to(to_float(value), sum.value * scale, slack * 1.01)) << t << ", " << o;
        }
      }
    }
  }
}

}  // namespace
}  // namespace dsv4::test
