#include "base/philox.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace dsv4 {
namespace {

void expect_words(const PhiloxWords& actual, const PhiloxWords& expected) {
  for (int i = 0; i < 4; ++i) EXPECT_EQ(actual.word[i], expected.word[i]) << i;
}

// The known answers published with the generator.
TEST(Philox, KnownAnswers) {
  expect_words(philox4x32({{0, 0, 0, 0}}, 0, 0), {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}});
  expect_words(philox4x32({{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}}, 0xffffffff, 0xffffffff),
               {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}});
  expect_words(philox4x32({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0xa4093822, 0x299f31d0),
               {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}});
}

TEST(Philox, UniformDependsOnEveryBitOfItsArguments) {
  std::set<double> values;
  size_t count = 0;
  const auto add = [&](int32_t token_id, uint64_t draw_idx, uint64_t seed) {
    const double u = sample_uniform(token_id, draw_idx, seed);
    EXPECT_GT(u, 0.0);
    EXPECT_LE(u, 1.0);
    values.insert(u);
    ++count;
  };
  add(0, 0, 0);
  for (int bit = 0; bit < 31; ++bit) add(1 << bit, 0, 0);
  for (int bit = 0; bit < 64; ++bit) {
    add(0, uint64_t{1} << bit, 0);
    add(0, 0, uint64_t{1} << bit);
  }
  EXPECT_EQ(values.size(), count);
}

TEST(Philox, UniformFillsTheUnitInterval) {
  // 100 equal bins, 10^5 draws: chi-square with 99 degrees of freedom stays under its 99.9 % quantile (148.2).
  int bins[100] = {};
  const int num_draws = 100000;
  for (int i = 0; i < num_draws; ++i)
    ++bins[std::min(99, static_cast<int>(sample_uniform(i % 1000, static_cast<uint64_t>(i / 1000), 7) * 100))];
  double chi_square = 0.0;
  for (const int bin : bins) chi_square += (bin - num_draws / 100.0) * (bin - num_draws / 100.0) / (num_draws / 100.0);
  EXPECT_LT(chi_square, 148.2);
}

}  // namespace
}  // namespace dsv4
