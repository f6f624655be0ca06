#include "ops/grouped_linear.h"

#include "backend/cpu/ops.h"
#include "support/op_bench.h"

namespace dsv4::bench {
namespace {

void grouped_linear(benchmark::State& state) {
  const int num_tokens = static_cast<int>(state.range(0)), num_groups = static_cast<int>(state.range(1));
  const int rows = num_groups * static_cast<int>(state.range(2)), cols = static_cast<int>(state.range(3));
  std::vector<Fp8Matrix> weights(num_copies(static_cast<size_t>(rows) * cols), Fp8Matrix(rows, cols));
  const auto x = fill_bf16(static_cast<size_t>(num_tokens) * num_groups * cols);
  std::vector<Bf16> out(static_cast<size_t>(num_tokens) * rows);
  size_t copy = 0;
  for (auto _ : state) cpu::grouped_linear({x.data(), weights[copy++ % weights.size()].view(), out.data(), num_tokens, num_groups});
  report(state, weights[0].bytes(), 2.0 * num_tokens * rows * cols, weights.size() > 1 ? Operands::kCold : Operands::kWarm);
}
// A small model, then Flash.
BENCHMARK(grouped_linear)
    ->ArgNames({"tokens", "groups", "group_rows", "cols"})
    ->ArgsProduct({{1, 64}, {2}, {128}, {512}})
    ->ArgsProduct({{1, 64}, {8}, {1024}, {4096}})
    ->UseRealTime();

}  // namespace
}  // namespace dsv4::bench
