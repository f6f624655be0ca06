#include "ops/mtp_join.h"

#include "backend/cpu/ops.h"
#include "cuda/support/gpu.h"
#include "support/compare.h"
#include "support/random_data.h"

namespace dsv4 {
namespace {

using test::DeviceArray;

class MtpJoinGpu : public test::GpuTest {};

TEST_F(MtpJoinGpu, EqualsTheCpuBitForBit) {
  test::Random random(1);
  for (const int hidden_size : {128, 256, 4096, 7168}) {
    for (const int num_tokens : {0, 1, 5}) {
      constexpr int kStreams = 4;
      const size_t count = static_cast<size_t>(num_tokens) * hidden_size;
      const std::vector<Bf16> e = test::random_bf16(random, count), g = test::random_bf16(random, count * kStreams, 30.0f);
      const DeviceArray<Bf16> gpu_e(gpu(), e), gpu_g(gpu(), g), streams(gpu(), count * kStreams);
      gpu().mtp_join({gpu_e.data(), gpu_g.data(), streams.data(), num_tokens, kStreams, hidden_size});
      std::vector<Bf16> expected(count * kStreams);
      cpu::mtp_join({e.data(), g.data(), expected.data(), num_tokens, kStreams, hidden_size});
      EXPECT_TRUE(test::same_bytes(streams.host(), expected)) << num_tokens << " tokens of " << hidden_size;
    }
  }
}

}  // namespace
}  // namespace dsv4
