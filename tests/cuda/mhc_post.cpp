#include "ops/mhc_post.h"

#include "support/mhc_case.h"

namespace dsv4 {
namespace {

class MhcPostGpu : public test::GpuTest {
 protected:
  static std::vector<Bf16> run(Backend& backend, const test::BoundaryCase& input) {
    const test::DeviceArray<Bf16> y(backend, input.y), streams(backend, input.streams);
    const test::DeviceArray<float> post(backend, input.post), comb(backend, input.comb);
    backend.mhc_post({y.data(), post.data(), comb.data(), streams.data(), input.num_tokens, 4, input.hidden_size});
    return streams.host();
  }
};

TEST_F(MhcPostGpu, MatchesCpuBitForBit) {
  const std::unique_ptr<Backend> cpu = make_cpu_backend();
  for (const auto& [num_tokens, hidden_size] : {std::pair{0, 256}, {1, 128}, {5, 256}, {17, 384}, {1, 4096}, {140, 4096}, {3, 7168}}) {
    const test::BoundaryCase input(num_tokens, hidden_size);
    const std::vector<Bf16> actual = run(gpu(), input);
    EXPECT_TRUE(test::same_bytes(actual, run(*cpu, input))) << num_tokens << " tokens of " << hidden_size;
  }
}

TEST_F(MhcPostGpu, SumsOverTheFirstIndexOfComb) {
  test::BoundaryCase input(1, 128);
  std::fill(input.post.begin(), input.post.end(), 0.0f);
  std::fill(input.comb.begin(), input.comb.end(), 0.0f);
  input.comb[4 * 1 + 3] = 1.0f;  // stream 1 goes to stream 3
  const std::vector<Bf16> streams = run(gpu(), input);
  for (int k = 0; k < 128; ++k) {
    EXPECT_EQ(to_float(streams[3 * 128 + k]), to_float(input.streams[128 + k]));
    EXPECT_EQ(to_float(streams[128 + k]), 0.0f);
  }
}

}  // namespace
}  // namespace dsv4
