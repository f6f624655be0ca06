#include "ops/rms_norm.h"

#include <gtest/gtest.h>

#include "backend/cpu/ops.h"
#include "support/compare.h"
#include "support/random_data.h"
#include "support/reference.h"

namespace dsv4 {
namespace {

constexpr float kEps = 1e-6f;

TEST(RmsNorm, MatchesDouble) {
  test::Random random(1);
  for (const int dim : {1, 7, 64, 100, 512, 4096}) {
    const int num_rows = 3;
    const std::vector<Bf16> x = test::random_bf16(random, static_cast<size_t>(num_rows) * dim, 3.0f);
    const std::vector<Bf16> weight = test::random_bf16(random, dim);
    std::vector<Bf16> out(x.size());
    cpu::rms_norm({x.data(), weight.data(), out.data(), num_rows, dim, kEps});
    for (int row = 0; row < num_rows; ++row) {
      const std::vector<double> expected = test::reference_rms(test::to_floats(x.data() + row * dim, dim), weight.data(), kEps);
      for (int i = 0; i < dim; ++i) {
        EXPECT_TRUE(test::bf16_rounds(out[row * dim + i], expected[i], 1e-6 * std::fabs(expected[i])))
            << "dim " << dim << ", element " << i;
      }
    }
  }
}

TEST(RmsNorm, TinyRowsAreKeptFromGrowingByEps) {
  const std::vector<Bf16> weight(64, to_bf16(1.0f));
  std::vector<Bf16> x(64, to_bf16(0x1p-20f)), zero(64, to_bf16(0.0f)), out(64);
  cpu::rms_norm({x.data(), weight.data(), out.data(), 1, 64, kEps});
  for (const Bf16 value : out) EXPECT_TRUE(test::bf16_rounds(value, 0x1p-20 / std::sqrt(0x1p-40 + 1e-6), 1e-9));
  cpu::rms_norm({zero.data(), weight.data(), out.data(), 1, 64, kEps});
  for (const Bf16 value : out) EXPECT_EQ(value.bits, 0);
}

TEST(RmsNorm, InPlaceAndAloneGiveTheSameBytes) {
  test::Random random(2);
  const int num_rows = 200, dim = 520;
  const std::vector<Bf16> x = test::random_bf16(random, static_cast<size_t>(num_rows) * dim);
  const std::vector<Bf16> weight = test::random_bf16(random, dim);
  std::vector<Bf16> together = x, alone(x.size());
  cpu::rms_norm({together.data(), weight.data(), together.data(), num_rows, dim, kEps});
  for (int row = 0; row < num_rows; ++row) cpu::rms_norm({x.data() + row * dim, weight.data(), alone.data() + row * dim, 1, dim, kEps});
  EXPECT_TRUE(test::same_bytes(together, alone));
}

}  // namespace
}  // namespace dsv4
