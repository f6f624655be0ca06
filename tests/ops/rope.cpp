#include "backend/cpu/rope.h"

#include <gtest/gtest.h>

#include "ops/rope.h"
#include "support/compare.h"
#include "support/random_data.h"
#include "support/reference.h"

namespace dsv4 {
namespace {

constexpr RopeConfig kCompressed{64, 160000.0f, true, 16.0f, 65536, 32.0f, 1.0f};
constexpr RopeConfig kWindowOnly{64, 10000.0f, false, 16.0f, 65536, 32.0f, 1.0f};

std::vector<float> frequencies(const RopeConfig& config) {
  std::vector<float> freqs(config.rope_dim / 2);
  rope_frequencies(config, freqs.data());
  return freqs;
}

// Equal to the nine digits that the spec prints: within one part in 2^23.
void expect_printed(float actual, double printed) {
  EXPECT_TRUE(test::close_to(actual, printed, printed * 0x1p-23));
}

TEST(Rope, YarnFrequenciesMatchTheSpec) {
  const std::vector<float> freqs = frequencies(kCompressed);
  EXPECT_EQ(freqs[0], 1.0f);
  expect_printed(freqs[15], 3.635538583e-3);
  expect_printed(freqs[16], 2.265625e-3);
  expect_printed(freqs[20], 2.96977778e-4);
  expect_printed(freqs[25], 5.37231267e-6);
  expect_printed(freqs[31], 5.68052904e-7);
}

TEST(Rope, PlainFrequenciesMatchTheSpec) {
  const std::vector<float> freqs = frequencies(kWindowOnly);
  EXPECT_EQ(freqs[0], 1.0f);
  expect_printed(freqs[1], 0.749894209);
  expect_printed(freqs[31], 1.33352143e-4);
}

TEST(Rope, YarnBlendsBetweenTheTwoCorrections) {
  const std::vector<float> freqs = frequencies(kCompressed);
  for (int i = 0; i < 32; ++i) {
    const double plain = std::pow(160000.0, -i / 32.0);
    const double ramp = std::min(std::max((i - 15) / 10.0, 0.0), 1.0);
    const double expected = plain / 16.0 * ramp + plain * (1.0 - ramp);
    EXPECT_TRUE(test::close_to(freqs[i], expected, expected * 4e-7)) << "i = " << i;
  }
}

TEST(Rope, EqualCorrectionsDoNotDivideByZero) {
  // With so short a context both corrections are 0: from the second pair on everything is interpolated.
  RopeConfig config = kCompressed;
  config.original_max_position_embeddings = 6;
  const std::vector<float> freqs = frequencies(config);
  EXPECT_EQ(freqs[0], 1.0f);
  for (int i = 1; i < 32; ++i) EXPECT_TRUE(test::close_to(freqs[i] * 16.0, std::pow(160000.0, -i / 32.0), 1e-6)) << "i = " << i;
}

TEST(Rope, PositionZeroRotatesNothing) {
  const std::vector<float> freqs = frequencies(kCompressed);
  test::Random random(1);
  const std::vector<Bf16> input = test::random_bf16(random, 64);
  std::vector<float> x = test::to_floats(input.data(), 64);
  const std::vector<float> before = x;
  cpu::rotate(cpu::make_rotation(0, freqs.data(), 64), 64, x.data());
  EXPECT_EQ(x, before);
}

TEST(Rope, TurnsInterleavedPairs) {
  const float quarter_turn = 1.57079637f;
  std::vector<float> freqs(32, 0.0f);
  freqs[1] = quarter_turn;
  std::vector<float> x(64, 0.0f);
  x[0] = 5.0f;  // pair 0 stands still
  x[2] = 1.0f;
  x[3] = 2.0f;
  cpu::rotate(cpu::make_rotation(1, freqs.data(), 64), 64, x.data());
  EXPECT_EQ(x[0], 5.0f);
  EXPECT_EQ(x[2], -2.0f);
  EXPECT_EQ(x[3], 1.0f);
}

TEST(Rope, MatchesDoubleAtFarPositions) {
  const std::vector<float> freqs = frequencies(kWindowOnly);
  test::Random random(2);
  for (const int position : {1, 127, 4095, 65537, 1048575}) {
    for (const int direction : {1, -1}) {
      const std::vector<Bf16> input = test::random_bf16(random, 64);
      std::vector<float> x = test::to_floats(input.data(), 64);
      const std::vector<double> expected = test::reference_rotate(x, position, freqs, direction);
      const cpu::Rotation rotation = cpu::make_rotation(position, freqs.data(), 64);
      if (direction > 0) {
        cpu::rotate(rotation, 64, x.data());
      } else {
        cpu::rotate_inverse(rotation, 64, x.data());
      }
      for (int i = 0; i < 64; ++i) {
        EXPECT_TRUE(test::bf16_rounds(to_bf16(x[i]), expected[i], 2e-6)) << "position " << position << ", dim " << i;
        EXPECT_EQ(x[i], round_bf16(x[i]));
      }
    }
  }
}

TEST(Rope, RotatesOnlyTheGivenDims) {
  const std::vector<float> freqs(8, 1.0f);
  std::vector<float> x(64, 1.0f);
  cpu::rotate(cpu::make_rotation(3, freqs.data(), 16), 16, x.data());
  EXPECT_NE(x[15], 1.0f);
  for (int i = 16; i < 64; ++i) EXPECT_EQ(x[i], 1.0f);
}

}  // namespace
}  // namespace dsv4
