#include "backend/cpu/hadamard.h"

#include <gtest/gtest.h>

#include "support/compare.h"
#include "support/random_data.h"
#include "support/reference.h"

namespace dsv4 {
namespace {

TEST(Hadamard, MatchesTheExplicitMatrix) {
  test::Random random(1);
  for (const int dim : {1, 2, 64, 128, 512}) {
    const std::vector<Bf16> input = test::random_bf16(random, dim);
    std::vector<float> x = test::to_floats(input.data(), dim);
    const std::vector<double> expected = test::reference_hadamard(x);
    cpu::hadamard(x.data(), dim);
    for (int i = 0; i < dim; ++i) EXPECT_TRUE(test::bf16_rounds(to_bf16(x[i]), expected[i], 1e-5)) << "dim " << dim << ", element " << i;
    for (int i = 0; i < dim; ++i) EXPECT_EQ(x[i], round_bf16(x[i]));
  }
}

TEST(Hadamard, UnitVectorGivesARowOfTheMatrix) {
  std::vector<float> x(64, 0.0f);
  x[5] = 8.0f;
  cpu::hadamard(x.data(), 64);
  for (int j = 0; j < 64; ++j) EXPECT_EQ(x[j], __builtin_popcount(5 & j) % 2 == 0 ? 1.0f : -1.0f) << "column " << j;
}

TEST(Hadamard, SizesThatHaveAMatrix) {
  EXPECT_TRUE(is_hadamard_dim(1));
  EXPECT_TRUE(is_hadamard_dim(128));
  EXPECT_TRUE(is_hadamard_dim(512));
  EXPECT_FALSE(is_hadamard_dim(0));
  EXPECT_FALSE(is_hadamard_dim(-128));
  EXPECT_FALSE(is_hadamard_dim(96));
  EXPECT_FALSE(is_hadamard_dim(1024));
}

}  // namespace
}  // namespace dsv4
