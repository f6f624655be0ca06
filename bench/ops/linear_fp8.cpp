#include "ops/linear_fp8.h"

#include "backend/cpu/ops.h"
#include "support/op_bench.h"

namespace dsv4::bench {
namespace {

void linear_fp8(benchmark::State& state) {
  const int num_tokens = static_cast<int>(state.range(0)), rows = static_cast<int>(state.range(1)), cols = static_cast<int>(state.range(2));
  std::vector<Fp8Matrix> weights(num_copies(static_cast<size_t>(rows) * cols), Fp8Matrix(rows, cols));
  const Fp8Rows x(num_tokens, cols);
  std::vector<Bf16> out(static_cast<size_t>(num_tokens) * rows);
  size_t copy = 0;
  for (auto _ : state) cpu::linear_fp8({x.view(), weights[copy++ % weights.size()].view(), out.data(), num_tokens});
  report(state, weights[0].bytes(), 2.0 * num_tokens * rows * cols, weights.size() > 1 ? Operands::kCold : Operands::kWarm);
}
// A small model's projections, then Flash: wq_a, wq_b, wo_b.
BENCHMARK(linear_fp8)
    ->ArgNames({"tokens", "rows", "cols"})
    ->ArgsProduct({{1, 64}, {512}, {512}})
    ->ArgsProduct({{1, 4, 64}, {1024}, {4096}})
    ->Args({1, 32768, 1024})
    ->Args({1, 4096, 8192})
    ->Args({64, 4096, 8192})
    ->UseRealTime();

}  // namespace
}  // namespace dsv4::bench
