#include "ops/mhc_head.h"

#include "backend/cpu/ops.h"
#include "support/op_bench.h"

namespace dsv4::bench {
namespace {

void mhc_head(benchmark::State& state) {
  constexpr int kHc = 4;
  const int num_tokens = static_cast<int>(state.range(0)), dim = static_cast<int>(state.range(1));
  const auto streams = fill_bf16(static_cast<size_t>(num_tokens) * kHc * dim);
  const std::vector<float> fn(static_cast<size_t>(kHc) * kHc * dim, 0.01f), base(kHc, 0.1f), scale(1, 1.0f);
  std::vector<Bf16> x(static_cast<size_t>(num_tokens) * dim);
  for (auto _ : state) {
    cpu::mhc_head({streams.data(), fn.data(), base.data(), scale.data(), x.data(), num_tokens, kHc, dim, 1e-6f, 1e-6f});
  }
  report(state, fn.size() * sizeof(float) + (streams.size() + x.size()) * sizeof(Bf16), 2.0 * kHc * static_cast<double>(streams.size()),
         Operands::kWarm);
}
BENCHMARK(mhc_head)->ArgNames({"tokens", "hidden_size"})->ArgsProduct({{1, 64}, {256, 4096}})->UseRealTime();

}  // namespace
}  // namespace dsv4::bench
