#include "ops/mhc_pre.h"

#include "backend/cpu/ops.h"
#include "support/op_bench.h"

namespace dsv4::bench {
namespace {

void mhc_pre(benchmark::State& state) {
  constexpr int kHc = 4, kMixes = kHc * (2 + kHc);
  const int num_tokens = static_cast<int>(state.range(0)), dim = static_cast<int>(state.range(1));
  const auto streams = fill_bf16(static_cast<size_t>(num_tokens) * kHc * dim);
  const std::vector<float> fn(static_cast<size_t>(kMixes) * kHc * dim, 0.01f), base(kMixes, 0.1f), scale(3, 1.0f);
  std::vector<Bf16> x(static_cast<size_t>(num_tokens) * dim);
  std::vector<float> post(num_tokens * kHc), comb(num_tokens * kHc * kHc);
  for (auto _ : state) {
    cpu::mhc_pre(
        {streams.data(), fn.data(), base.data(), scale.data(), x.data(), post.data(), comb.data(), num_tokens, kHc, dim, 20, 1e-6f, 1e-6f});
  }
  report(state, fn.size() * sizeof(float) + (streams.size() + x.size()) * sizeof(Bf16), 2.0 * kMixes * static_cast<double>(streams.size()),
         Operands::kWarm);
}
BENCHMARK(mhc_pre)->ArgNames({"tokens", "hidden_size"})->ArgsProduct({{1, 64}, {256, 4096}})->UseRealTime();

}  // namespace
}  // namespace dsv4::bench
