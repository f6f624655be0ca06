#include "ops/query_norm.h"

#include <gtest/gtest.h>

#include "backend/cpu/ops.h"
#include "base/error.h"
#include "support/compare.h"
#include "support/random_data.h"
#include "support/reference.h"

namespace dsv4 {
namespace {

constexpr float kEps = 1e-6f;

// The norm in bf16 arithmetic, step by step; the sum in double.
std::vector<float> reference_norm(const std::vector<float>& q) {
  double sum = 0.0;
  for (const float value : q) sum += round_bf16(value * value);
  const float mean = round_bf16(static_cast<float>(sum / static_cast<double>(q.size())));
  const float factor = round_bf16(static_cast<float>(1.0 / std::sqrt(static_cast<double>(round_bf16(mean + kEps)))));
  std::vector<float> y(q.size());
  for (size_t i = 0; i < q.size(); ++i) y[i] = round_bf16(q[i] * factor);
  return y;
}

QueryNormParams make_params(std::vector<Bf16>& q, const std::vector<int32_t>& positions, const std::vector<float>& freqs, int num_heads,
                            int head_dim) {
  return {q.data(), positions.data(), freqs.data(), static_cast<int>(positions.size()), num_heads, head_dim, kRopeDim, kEps};
}

TEST(QueryNorm, FollowsTheBf16Steps) {
  test::Random random(1);
  const std::vector<float> freqs = test::plain_frequencies();
  const std::vector<int32_t> positions = {0, 1, 77, 100000};
  const int num_heads = 3;
  for (const int head_dim : {64, 128, 512}) {
    const std::vector<Bf16> input = test::random_bf16(random, positions.size() * num_heads * head_dim, 2.0f);
    std::vector<Bf16> q = input;
    cpu::query_norm(make_params(q, positions, freqs, num_heads, head_dim));
    for (size_t head = 0; head < positions.size() * num_heads; ++head) {
      const std::vector<float> normed = reference_norm(test::to_floats(input.data() + head * head_dim, head_dim));
      const std::vector<double> expected = test::reference_rotate(normed, positions[head / num_heads], freqs);
      for (int i = 0; i < head_dim; ++i) {
        const Bf16 actual = q[head * head_dim + i];
        if (i < head_dim - kRopeDim) {
          EXPECT_EQ(to_float(actual), normed[i]) << "head " << head << ", dim " << i;
        } else {
          EXPECT_TRUE(test::bf16_rounds(actual, expected[i], 1e-6)) << "head " << head << ", dim " << i;
        }
      }
    }
  }
}

TEST(QueryNorm, Bf16StepsDifferFromAnFp32Norm) {
  // 1 + 2^-7 squared is 1 + 2^-6 + 2^-14, in bf16 1 + 2^-6; its rsqrt rounds to 1 − 2^-7, where the fp32 norm would give exactly 1.
  std::vector<Bf16> q(128, to_bf16(1.0f + 0x1p-7f));
  const std::vector<float> freqs = test::plain_frequencies();
  cpu::query_norm(make_params(q, {0}, freqs, 1, 128));
  const float factor = 1.0f - 0x1p-7f;
  for (int i = 0; i < 64; ++i) EXPECT_EQ(to_float(q[i]), round_bf16((1.0f + 0x1p-7f) * factor));
}

TEST(QueryNorm, ZeroHeadStaysZero) {
  std::vector<Bf16> q(128, to_bf16(0.0f));
  cpu::query_norm(make_params(q, {9}, test::plain_frequencies(), 1, 128));
  for (const Bf16 value : q) EXPECT_EQ(to_float(value), 0.0f);
}

TEST(QueryNorm, RowsAloneGiveTheSameBytes) {
  test::Random random(2);
  const std::vector<float> freqs = test::plain_frequencies();
  const int num_tokens = 64, num_heads = 8, head_dim = 128;
  const size_t row_size = num_heads * head_dim;
  std::vector<int32_t> positions(num_tokens);
  for (int i = 0; i < num_tokens; ++i) positions[i] = 1000 + i;
  std::vector<Bf16> together = test::random_bf16(random, num_tokens * row_size);
  std::vector<Bf16> alone = together;
  cpu::query_norm(make_params(together, positions, freqs, num_heads, head_dim));
  for (int i = 0; i < num_tokens; ++i) {
    std::vector<Bf16> row(alone.begin() + i * row_size, alone.begin() + (i + 1) * row_size);
    cpu::query_norm(make_params(row, {positions[i]}, freqs, num_heads, head_dim));
    std::copy(row.begin(), row.end(), alone.begin() + i * row_size);
  }
  EXPECT_TRUE(test::same_bytes(together, alone));
}

TEST(QueryNorm, RefusesRopeWiderThanTheHead) {
  std::vector<Bf16> q(32);
  EXPECT_THROW(cpu::query_norm(make_params(q, {0}, test::plain_frequencies(), 1, 32)), Error);
}

TEST(QueryNorm, PaddingRowsStayFinite) {
  std::vector<Bf16> q(2 * 128, to_bf16(1.0f));
  const std::vector<float> freqs = test::plain_frequencies();
  cpu::query_norm(make_params(q, {-1, 0}, freqs, 1, 128));
  for (const Bf16 value : q) EXPECT_TRUE(std::isfinite(to_float(value)));
}

}  // namespace
}  // namespace dsv4
