#include "ops/kv_store.h"

#include "backend/cpu/ops.h"
#include "cuda/support/device_step.h"
#include "cuda/support/differences.h"
#include "support/compare.h"
#include "support/random_data.h"
#include "support/reference.h"

namespace dsv4 {
namespace {

using test::DeviceArray;

constexpr float kEps = 1e-6f;
constexpr int kSlots = 3;

class KvStoreGpu : public test::GpuTest {
 protected:
  // The ring after a step, from a ring of 0xee bytes.
  static std::vector<uint8_t> run(const std::vector<Bf16>& kv, const std::vector<Bf16>& weight, const test::Step& step, int head_dim,
                                  int ring_size) {
    const DeviceArray<Bf16> gpu_kv(gpu(), kv), gpu_weight(gpu(), weight);
    const DeviceArray<float> freqs(gpu(), test::plain_frequencies());
    const DeviceArray<uint8_t> ring(gpu(), std::vector<uint8_t>(kSlots * KvEntryLayout{head_dim}.page_bytes(ring_size), 0xee));
    const test::DeviceStep gpu_step(gpu(), step);
    gpu().kv_store({gpu_kv.data(), gpu_weight.data(), freqs.data(), gpu_step.view(), {ring.data(), ring_size}, head_dim, kEps});
    return ring.host();
  }
};

TEST_F(KvStoreGpu, StoresTheBytesOfTheCpu) {
  test::Random random(1);
  for (const int head_dim : {64, 128, 256, 512}) {
    for (const int ring_size : {136, 137}) {
      // The first sequence crosses the end of its ring; padding rows follow, of which nothing may be seen.
      const test::Step step({{1, 130, 9}, {0, 0, 3}, {2, 1048570, 5}}, kSlots, 1);
      const test::Step padded = test::with_padding(step, 3);
      const std::vector<Bf16> kv = test::random_bf16(random, padded.positions.size() * head_dim, 4.0f);
      const std::vector<Bf16> weight = test::random_bf16(random, head_dim);
      const std::vector<float> freqs = test::plain_frequencies();
      const std::vector<uint8_t> actual = run(kv, weight, padded, head_dim, ring_size);
      std::vector<uint8_t> expected(actual.size(), 0xee);
      cpu::kv_store({kv.data(), weight.data(), freqs.data(), step.view(), {expected.data(), ring_size}, head_dim, kEps});
      // Only a rotated bf16 may differ, once in a million (see query_norm).
      EXPECT_TRUE(test::differ_rarely(actual, expected, 100000)) << "head_dim " << head_dim;
    }
  }
}

TEST_F(KvStoreGpu, ExtremeRows) {
  // All zeros; one large value among tiny ones: subnormal codes and the smallest scale.
  constexpr int kDim = 512;
  const test::Step step({{0, 0, 2}}, kSlots, 1);
  std::vector<Bf16> kv(2 * kDim, to_bf16(0.0f));
  for (int i = 0; i < kDim; ++i) kv[kDim + i] = to_bf16(i == 5 ? 3e4f : 1e-3f * static_cast<float>(i % 17 - 8));
  const std::vector<Bf16> weight(kDim, to_bf16(1.0f));
  const std::vector<float> freqs = test::plain_frequencies();
  const std::vector<uint8_t> actual = run(kv, weight, step, kDim, 4);
  std::vector<uint8_t> expected(actual.size(), 0xee);
  cpu::kv_store({kv.data(), weight.data(), freqs.data(), step.view(), {expected.data(), 4}, kDim, kEps});
  EXPECT_TRUE(test::same_bytes(actual, expected));
}

TEST_F(KvStoreGpu, ARowAloneEqualsARowAmongOthers) {
  test::Random random(2);
  constexpr int kDim = 512, kRows = 6, kRing = 8;
  const std::vector<Bf16> kv = test::random_bf16(random, kRows * kDim), weight = test::random_bf16(random, kDim);
  const KvEntryLayout layout{kDim};
  const std::vector<uint8_t> together = run(kv, weight, test::Step({{0, 0, kRows}}, kSlots, 1), kDim, kRing);
  for (int row = 0; row < kRows; ++row) {
    const std::vector<uint8_t> alone =
        run({kv.begin() + row * kDim, kv.begin() + (row + 1) * kDim}, weight, test::Step({{0, row, 1}}, kSlots, 1), kDim, kRing);
    const auto values = static_cast<ptrdiff_t>(layout.value_offset(row)), scales = static_cast<ptrdiff_t>(layout.scale_offset(row, kRing));
    EXPECT_TRUE(std::equal(alone.begin() + values, alone.begin() + values + static_cast<ptrdiff_t>(layout.value_bytes()),
                           together.begin() + values));
    EXPECT_TRUE(std::equal(alone.begin() + scales, alone.begin() + scales + static_cast<ptrdiff_t>(layout.scale_bytes()),
                           together.begin() + scales));
  }
}

TEST_F(KvStoreGpu, NoRowsNothingToDo) {
  const std::vector<Bf16> weight(64, to_bf16(1.0f));
  const std::vector<uint8_t> ring = run({}, weight, test::Step({}, kSlots, 1), 64, 4);
  EXPECT_TRUE(test::same_bytes(ring, std::vector<uint8_t>(ring.size(), 0xee)));
}

}  // namespace
}  // namespace dsv4
