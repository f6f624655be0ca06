#include "ops/linear_bf16.h"

#include "backend/cpu/ops.h"
#include "support/op_bench.h"

namespace dsv4::bench {
namespace {

void linear_bf16(benchmark::State& state) {
  const int num_tokens = static_cast<int>(state.range(0)), rows = static_cast<int>(state.range(1)), cols = static_cast<int>(state.range(2));
  const auto weight = fill_bf16(static_cast<size_t>(rows) * cols);
  const auto x = fill_bf16(static_cast<size_t>(num_tokens) * cols);
  std::vector<Bf16> out(static_cast<size_t>(num_tokens) * rows);
  for (auto _ : state) cpu::linear_bf16({x.data(), {weight.data(), rows, cols}, out.data(), num_tokens, 0.011f});
  report(state, weight.size() * sizeof(Bf16), 2.0 * num_tokens * rows * cols, Operands::kWarm);
}
// indexer.weights_proj of a small model and of Flash.
BENCHMARK(linear_bf16)
    ->ArgNames({"tokens", "rows", "cols"})
    ->ArgsProduct({{1, 64}, {64}, {512}})
    ->ArgsProduct({{1, 64}, {64}, {4096}})
    ->UseRealTime();

}  // namespace
}  // namespace dsv4::bench
