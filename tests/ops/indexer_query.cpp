#include "ops/indexer_query.h"

#include <gtest/gtest.h>

#include "backend/cpu/ops.h"
#include "base/error.h"
#include "support/compare.h"
#include "support/random_data.h"
#include "support/reference.h"

namespace dsv4 {
namespace {

struct Output {
  std::vector<uint8_t> codes, scales;
};

Output run(const std::vector<Bf16>& iq, const std::vector<int32_t>& positions, const std::vector<float>& freqs, int num_heads, int dim) {
  Output output{std::vector<uint8_t>(iq.size() / 2), std::vector<uint8_t>(iq.size() / 32)};
  cpu::indexer_query({iq.data(), positions.data(), freqs.data(), output.codes.data(), output.scales.data(),
                      static_cast<int>(positions.size()), num_heads, dim, kRopeDim});
  return output;
}

TEST(IndexerQuery, MatchesTheSteps) {
  test::Random random(1);
  const std::vector<float> freqs = test::plain_frequencies();
  const std::vector<int32_t> positions = {0, 3, 5000, 999999};
  const int num_heads = 5;
  int different = 0, total = 0;
  for (const int dim : {64, 128, 256}) {
    const std::vector<Bf16> iq = test::random_bf16(random, positions.size() * num_heads * dim);
    const Output output = run(iq, positions, freqs, num_heads, dim);
    for (size_t head = 0; head < positions.size() * num_heads; ++head) {
      const auto rotated =
          test::round_all(test::reference_rotate(test::to_floats(&iq[head * dim], dim), positions[head / num_heads], freqs));
      const auto expected = test::reference_fp4(test::round_all(test::reference_hadamard(rotated)));
      const auto actual = test::read_fp4_values(dim, &output.codes[head * dim / 2], &output.scales[head * dim / 32]);
      different += test::num_different(actual, expected);
      total += dim;
      for (int i = 0; i < dim; ++i) EXPECT_TRUE(test::close_to(actual[i], expected[i], 2.0)) << "head " << head << ", dim " << i;
    }
  }
  EXPECT_LE(different, total / 500);
}

TEST(IndexerQuery, ExactInputsGiveExactCodes) {
  // At position 0 nothing is rotated, and the sums of small integers are exact: every bit is determined.
  test::Random random(2);
  for (const int dim : {64, 128}) {
    std::vector<Bf16> iq(dim);
    for (Bf16& value : iq) value = to_bf16(static_cast<float>(random.below(15) - 7));
    const Output output = run(iq, {0}, test::plain_frequencies(), 1, dim);
    const auto hadamard = test::round_all(test::reference_hadamard(test::to_floats(iq.data(), dim)));
    EXPECT_TRUE(test::same_bytes(test::read_fp4_values(dim, output.codes.data(), output.scales.data()), test::reference_fp4(hadamard)));
  }
}

TEST(IndexerQuery, ZeroRowsHaveTheSmallestScale) {
  const Output output = run(std::vector<Bf16>(128, to_bf16(0.0f)), {17}, test::plain_frequencies(), 1, 128);
  for (const uint8_t scale : output.scales) EXPECT_EQ(scale, 1);
  for (const uint8_t codes : output.codes) EXPECT_EQ(codes & 0x77, 0);
}

TEST(IndexerQuery, RefusesDimsWithoutAHadamardMatrix) {
  EXPECT_THROW(run(std::vector<Bf16>(96), {0}, test::plain_frequencies(), 1, 96), Error);
  EXPECT_THROW(run(std::vector<Bf16>(32), {0}, test::plain_frequencies(), 1, 32), Error);
}

}  // namespace
}  // namespace dsv4
