#include "ops/query_norm.h"

#include "backend/cpu/ops.h"
#include "cuda/support/differences.h"
#include "cuda/support/gpu.h"
#include "ops/kv_layout.h"
#include "support/compare.h"
#include "support/random_data.h"
#include "support/reference.h"

namespace dsv4 {
namespace {

using test::DeviceArray;

constexpr float kEps = 1e-6f;

// Every operation but cos and sin is the CPU's. Those are correctly rounded here and within 0.6 units in the last place of fp32 there: of
// the rotated values a bf16 rounding may fall on the other side once in a million.
constexpr size_t kRotationRarity = 100000;

class QueryNormGpu : public test::GpuTest {
 protected:
  static std::vector<Bf16> run(const std::vector<Bf16>& q, const std::vector<int32_t>& positions, int num_heads, int head_dim) {
    const std::vector<float> freqs = test::plain_frequencies();
    const DeviceArray<Bf16> gpu_q(gpu(), q);
    const DeviceArray<int32_t> gpu_positions(gpu(), positions);
    const DeviceArray<float> gpu_freqs(gpu(), freqs);
    gpu().query_norm(
        {gpu_q.data(), gpu_positions.data(), gpu_freqs.data(), static_cast<int>(positions.size()), num_heads, head_dim, kRopeDim, kEps});
    return gpu_q.host();
  }
};

TEST_F(QueryNormGpu, EqualsTheCpu) {
  test::Random random(1);
  const std::vector<float> freqs = test::plain_frequencies();
  for (const auto& [num_heads, head_dim] : {std::pair{8, 128}, {4, 64}, {9, 256}, {64, 512}, {128, 512}}) {
    const std::vector<int32_t> positions = {0, 1, 4095, 131071, 1048575};
    const size_t count = positions.size() * num_heads * head_dim;
    std::vector<Bf16> expected = test::random_bf16(random, count, 5.0f);
    std::fill_n(expected.begin(), head_dim, to_bf16(0.0f));  // a head of zeros
    const std::vector<Bf16> actual = run(expected, positions, num_heads, head_dim);
    cpu::query_norm(
        {expected.data(), positions.data(), freqs.data(), static_cast<int>(positions.size()), num_heads, head_dim, kRopeDim, kEps});
    EXPECT_TRUE(test::differ_rarely(actual, expected, kRotationRarity)) << num_heads << " heads of " << head_dim;
    for (size_t i = 0; i < count; ++i) {
      if (static_cast<int>(i % head_dim) < head_dim - kRopeDim) {
        ASSERT_EQ(actual[i].bits, expected[i].bits) << "dim " << i % head_dim;
      }
      ASSERT_LE(std::abs(actual[i].bits - expected[i].bits), 1) << "dim " << i % head_dim;
    }
  }
}

TEST_F(QueryNormGpu, ATokenAloneEqualsATokenAmongOthers) {
  test::Random random(2);
  constexpr int kHeads = 12, kDim = 512;
  const std::vector<int32_t> positions = {7, 300, 65535};
  const std::vector<Bf16> q = test::random_bf16(random, positions.size() * kHeads * kDim);
  const std::vector<Bf16> together = run(q, positions, kHeads, kDim);
  for (size_t t = 0; t < positions.size(); ++t) {
    const auto begin = static_cast<ptrdiff_t>(t) * kHeads * kDim, end = begin + kHeads * kDim;
    const std::vector<Bf16> alone = run({q.begin() + begin, q.begin() + end}, {positions[t]}, kHeads, kDim);
    EXPECT_TRUE(test::same_bytes(alone, std::vector<Bf16>(together.begin() + begin, together.begin() + end)));
  }
}

TEST_F(QueryNormGpu, PaddingIsFiniteAndNoTokensNothingToDo) {
  test::Random random(3);
  const std::vector<Bf16> padding = run(test::random_bf16(random, 8 * 128), {-1}, 8, 128);
  for (const Bf16 value : padding) EXPECT_TRUE(std::isfinite(to_float(value)));
  EXPECT_TRUE(run({}, {}, 8, 128).empty());
}

}  // namespace
}  // namespace dsv4
