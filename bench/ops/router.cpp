#include "ops/router.h"

#include "backend/cpu/ops.h"
#include "support/op_bench.h"

namespace dsv4::bench {
namespace {

void router(benchmark::State& state) {
  const int num_tokens = static_cast<int>(state.range(0)), num_experts = static_cast<int>(state.range(1)),
            hidden_size = static_cast<int>(state.range(2));
  constexpr int kSelected = 6;
  const auto gate = fill_bf16(static_cast<size_t>(num_experts) * hidden_size);
  const auto x = fill_bf16(static_cast<size_t>(num_tokens) * hidden_size);
  const std::vector<float> bias(num_experts, 0.5f);
  std::vector<int32_t> experts(static_cast<size_t>(num_tokens) * kSelected);
  std::vector<float> weights(experts.size());
  for (auto _ : state) {
    cpu::router({x.data(),
                 {gate.data(), num_experts, hidden_size},
                 bias.data(),
                 nullptr,
                 nullptr,
                 experts.data(),
                 weights.data(),
                 num_tokens,
                 kSelected,
                 1.5f});
  }
  report(state, gate.size() * sizeof(Bf16), 2.0 * num_tokens * num_experts * hidden_size, Operands::kWarm);
}
BENCHMARK(router)
    ->ArgNames({"tokens", "experts", "hidden"})
    ->ArgsProduct({{1, 64}, {16}, {256}})
    ->ArgsProduct({{1, 64}, {256}, {4096}})
    ->UseRealTime();

}  // namespace
}  // namespace dsv4::bench
