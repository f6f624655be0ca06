#include "ops/combine.h"

#include "backend/cpu/ops.h"
#include "support/op_bench.h"

namespace dsv4::bench {
namespace {

void combine(benchmark::State& state) {
  const int num_tokens = static_cast<int>(state.range(0)), hidden_size = static_cast<int>(state.range(1));
  constexpr int kSelected = 6;
  const auto routed = fill_bf16(static_cast<size_t>(num_tokens) * kSelected * hidden_size);
  const auto shared = fill_bf16(static_cast<size_t>(num_tokens) * hidden_size);
  std::vector<int32_t> experts(static_cast<size_t>(num_tokens) * kSelected);
  for (size_t i = 0; i < experts.size(); ++i) experts[i] = static_cast<int32_t>(i * 37 % 256);
  std::vector<Bf16> out(shared.size());
  for (auto _ : state) cpu::combine({routed.data(), experts.data(), shared.data(), out.data(), num_tokens, kSelected, hidden_size});
  report(state, (routed.size() + shared.size() + out.size()) * sizeof(Bf16), 0.0, Operands::kWarm);
}
BENCHMARK(combine)->ArgNames({"tokens", "hidden"})->ArgsProduct({{1, 64}, {256, 4096}})->UseRealTime();

}  // namespace
}  // namespace dsv4::bench
