#include "ops/indexer_query.h"

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

struct Codes {
  std::vector<uint8_t> codes, scales;
};

class IndexerQueryGpu : public test::GpuTest {
 protected:
  static Codes run(const std::vector<Bf16>& iq, const std::vector<int32_t>& positions, int num_heads, int dim) {
    const DeviceArray<Bf16> gpu_iq(gpu(), iq);
    const DeviceArray<int32_t> gpu_positions(gpu(), positions);
    const DeviceArray<float> freqs(gpu(), test::plain_frequencies());
    const DeviceArray<uint8_t> codes(gpu(), iq.size() / 2), scales(gpu(), iq.size() / 32);
    gpu().indexer_query({gpu_iq.data(), gpu_positions.data(), freqs.data(), codes.data(), scales.data(), static_cast<int>(positions.size()),
                         num_heads, dim, kRopeDim});
    return {codes.host(), scales.host()};
  }
  static Codes run_cpu(const std::vector<Bf16>& iq, const std::vector<int32_t>& positions, int num_heads, int dim) {
    const std::vector<float> freqs = test::plain_frequencies();
    Codes out{std::vector<uint8_t>(iq.size() / 2), std::vector<uint8_t>(iq.size() / 32)};
    cpu::indexer_query({iq.data(), positions.data(), freqs.data(), out.codes.data(), out.scales.data(), static_cast<int>(positions.size()),
                        num_heads, dim, kRopeDim});
    return out;
  }
};

TEST_F(IndexerQueryGpu, EqualsTheCpu) {
  test::Random random(1);
  for (const auto& [num_heads, dim] : {std::pair{64, 128}, {4, 64}, {3, 128}, {5, 64}, {1, 64}, {20, 128}}) {
    const std::vector<int32_t> positions = {0, 5, 4095, 1048575};
    std::vector<Bf16> iq = test::random_bf16(random, positions.size() * num_heads * dim, 5.0f);
    std::fill_n(iq.begin(), dim, to_bf16(0.0f));
    const Codes actual = run(iq, positions, num_heads, dim), expected = run_cpu(iq, positions, num_heads, dim);
    // A rotated bf16 that differs (once in a million, see query_norm) may move a code.
    EXPECT_TRUE(test::differ_rarely(actual.codes, expected.codes, 10000)) << num_heads << " heads of " << dim;
    EXPECT_TRUE(test::same_bytes(actual.scales, expected.scales)) << num_heads << " heads of " << dim;
  }
}

TEST_F(IndexerQueryGpu, TiesGoToTheEvenCode) {
  // The transform of c·row j of M is √dim·c at j and zero elsewhere; sums of rows put a chosen value at every place of a block. At position
  // 0 nothing is rotated.
  constexpr int kDim = 64;
  const float wanted[] = {6.0f, 0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f, -0.25f, -0.75f, -1.25f, -1.75f, -2.5f, -3.5f, -5.0f, 0.0f};
  std::vector<Bf16> iq(kDim);
  for (int i = 0; i < kDim; ++i) {
    float sum = 0.0f;
    for (int j = 0; j < 16; ++j) sum += __builtin_popcount(static_cast<unsigned>(i & j)) % 2 == 0 ? wanted[j] : -wanted[j];
    iq[i] = to_bf16(sum / 8.0f);
  }
  const Codes actual = run(iq, {0}, 1, kDim), expected = run_cpu(iq, {0}, 1, kDim);
  const std::vector<float> values = test::read_fp4_values(kDim, actual.codes.data(), actual.scales.data());
  const float rounded[] = {6.0f, 0.0f, 1.0f, 1.0f, 2.0f, 2.0f, 4.0f, 4.0f, 0.0f, -1.0f, -1.0f, -2.0f, -2.0f, -4.0f, -4.0f, 0.0f};
  for (int j = 0; j < kDim; ++j) EXPECT_EQ(values[j], j < 16 ? rounded[j] : 0.0f) << "dim " << j;
  EXPECT_TRUE(test::same_bytes(actual.codes, expected.codes));
  EXPECT_TRUE(test::same_bytes(actual.scales, expected.scales));
}

TEST_F(IndexerQueryGpu, ATokenAloneEqualsATokenAmongOthers) {
  test::Random random(2);
  constexpr int kHeads = 64, kDim = 128;
  const std::vector<int32_t> positions = {3, 77};
  const std::vector<Bf16> iq = test::random_bf16(random, positions.size() * kHeads * kDim);
  const Codes together = run(iq, positions, kHeads, kDim);
  const Codes alone = run({iq.begin() + kHeads * kDim, iq.end()}, {77}, kHeads, kDim);
  EXPECT_TRUE(test::same_bytes(alone.codes, std::vector<uint8_t>(together.codes.begin() + kHeads * kDim / 2, together.codes.end())));
  EXPECT_TRUE(test::same_bytes(alone.scales, std::vector<uint8_t>(together.scales.begin() + kHeads * kDim / 32, together.scales.end())));
}

TEST_F(IndexerQueryGpu, NoTokensNothingToDo) {
  EXPECT_TRUE(run({}, {}, 64, 128).codes.empty());
}

}  // namespace
}  // namespace dsv4
