#include "ops/combine.h"

#include "support/mhc_case.h"

namespace dsv4 {
namespace {

class CombineGpu : public test::GpuTest {
 protected:
  static std::vector<Bf16> run(Backend& backend, const test::BoundaryCase& input) {
    const test::DeviceArray<Bf16> routed(backend, input.routed), shared(backend, input.shared), out(backend, input.shared.size());
    const test::DeviceArray<int32_t> experts(backend, input.experts);
    backend.combine({routed.data(), experts.data(), shared.data(), out.data(), input.num_tokens, input.num_selected, input.hidden_size});
    return out.host();
  }
};

TEST_F(CombineGpu, MatchesCpuBitForBit) {
  const std::unique_ptr<Backend> cpu = make_cpu_backend();
  for (const auto& [num_tokens, hidden_size, num_selected] :
       {std::tuple{0, 256, 6}, {1, 128, 6}, {5, 256, 2}, {17, 384, 1}, {1, 4096, 6}, {140, 4096, 6}, {3, 7168, 6}, {4, 256, 13}}) {
    const test::BoundaryCase input(num_tokens, hidden_size, num_selected, 7);
    const std::vector<Bf16> actual = run(gpu(), input);
    EXPECT_TRUE(test::same_bytes(actual, run(*cpu, input))) << num_tokens << " tokens of " << hidden_size;
  }
}

TEST_F(CombineGpu, SlotsWithoutAnExpertAddNothing) {
  const std::unique_ptr<Backend> cpu = make_cpu_backend();
  test::BoundaryCase input(3, 256);
  for (const int slot : {0, 4, 12, 13, 14, 15, 16, 17}) input.experts[slot] = -1;
  std::fill_n(input.routed.begin() + 12 * 256, 6 * 256, Bf16{0x7fc0});
  const std::vector<Bf16> actual = run(gpu(), input);
  EXPECT_TRUE(test::same_bytes(actual, run(*cpu, input)));
  for (int k = 0; k < 256; ++k) EXPECT_EQ(to_float(actual[2 * 256 + k]), to_float(input.shared[2 * 256 + k]));
}

}  // namespace
}  // namespace dsv4
