#include "ops/embed.h"

#include "backend/cpu/ops.h"
#include "cuda/support/gpu.h"
#include "support/compare.h"
#include "support/random_data.h"

namespace dsv4 {
namespace {

using test::DeviceArray;

class EmbedGpu : public test::GpuTest {};

TEST_F(EmbedGpu, EqualsTheCpuBitForBit) {
  test::Random random(1);
  constexpr int kVocabSize = 50;
  for (const int hidden_size : {128, 256, 4096, 7168}) {
    for (const int hc_mult : {1, 4}) {
      for (const int num_tokens : {1, 2, 19}) {
        const std::vector<Bf16> table = test::random_bf16(random, static_cast<size_t>(kVocabSize) * hidden_size);
        std::vector<int32_t> ids(num_tokens);
        for (int32_t& id : ids) id = random.below(kVocabSize);
        ids[0] = kVocabSize - 1;
        const size_t count = static_cast<size_t>(num_tokens) * hc_mult * hidden_size;
        const DeviceArray<int32_t> gpu_ids(gpu(), ids);
        const DeviceArray<Bf16> gpu_table(gpu(), table), streams(gpu(), count);
        gpu().embed({gpu_ids.data(), gpu_table.data(), streams.data(), num_tokens, hc_mult, hidden_size});
        std::vector<Bf16> expected(count);
        cpu::embed({ids.data(), table.data(), expected.data(), num_tokens, hc_mult, hidden_size});
        EXPECT_TRUE(test::same_bytes(streams.host(), expected)) << num_tokens << " tokens of " << hidden_size;
      }
    }
  }
}

TEST_F(EmbedGpu, ARowWithoutATokenBecomesZero) {
  const std::vector<Bf16> table(2 * 128, to_bf16(3.0f));
  const DeviceArray<int32_t> ids(gpu(), std::vector<int32_t>{1, -1});
  const DeviceArray<Bf16> gpu_table(gpu(), table), streams(gpu(), size_t{2 * 4 * 128});
  gpu().embed({ids.data(), gpu_table.data(), streams.data(), 2, 4, 128});
  std::vector<Bf16> expected(2 * 4 * 128, to_bf16(0.0f));
  std::fill_n(expected.begin(), 4 * 128, to_bf16(3.0f));
  EXPECT_TRUE(test::same_bytes(streams.host(), expected));
}

TEST_F(EmbedGpu, NoTokensNothingToDo) {
  const DeviceArray<Bf16> streams(gpu(), size_t{128});
  const std::vector<Bf16> before = streams.host();
  gpu().embed({nullptr, nullptr, streams.data(), 0, 4, 128});
  EXPECT_TRUE(test::same_bytes(streams.host(), before));
}

}  // namespace
}  // namespace dsv4
