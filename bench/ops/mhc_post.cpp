#include "ops/mhc_post.h"

#include "backend/cpu/ops.h"
#include "support/op_bench.h"

namespace dsv4::bench {
namespace {

void mhc_post(benchmark::State& state) {
  constexpr int kHc = 4;
  const int num_tokens = static_cast<int>(state.range(0)), dim = static_cast<int>(state.range(1));
  const auto y = fill_bf16(static_cast<size_t>(num_tokens) * dim);
  auto streams = fill_bf16(y.size() * kHc);
  // A stream is the mean of the four: repeated in place, the values stay finite.
  const std::vector<float> post(num_tokens * kHc, 0.0f), comb(num_tokens * kHc * kHc, 0.25f);
  for (auto _ : state) cpu::mhc_post({y.data(), post.data(), comb.data(), streams.data(), num_tokens, kHc, dim});
  report(state, (y.size() + 2 * streams.size()) * sizeof(Bf16), 2.0 * (kHc + 1) * static_cast<double>(streams.size()), Operands::kWarm);
}
BENCHMARK(mhc_post)->ArgNames({"tokens", "hidden_size"})->ArgsProduct({{1, 64}, {256, 4096}})->UseRealTime();

}  // namespace
}  // namespace dsv4::bench
