#include "ops/linear_fp32.h"

#include "backend/cpu/ops.h"
#include "support/op_bench.h"

namespace dsv4::bench {
namespace {

void linear_fp32(benchmark::State& state) {
  const int num_tokens = static_cast<int>(state.range(0)), rows = static_cast<int>(state.range(1)), cols = static_cast<int>(state.range(2));
  const std::vector<std::vector<Bf16>> weights(num_copies(static_cast<size_t>(rows) * cols * sizeof(Bf16)),
                                               fill_bf16(static_cast<size_t>(rows) * cols));
  const auto x = fill_bf16(static_cast<size_t>(num_tokens) * cols);
  std::vector<float> out(static_cast<size_t>(num_tokens) * rows);
  size_t copy = 0;
  for (auto _ : state) cpu::linear_fp32({x.data(), {weights[copy++ % weights.size()].data(), rows, cols}, out.data(), num_tokens});
  report(state, weights[0].size() * sizeof(Bf16), 2.0 * num_tokens * rows * cols, weights.size() > 1 ? Operands::kCold : Operands::kWarm);
}
// A small head, a CSA compressor of Flash, and a quarter of its head.
BENCHMARK(linear_fp32)
    ->ArgNames({"tokens", "rows", "cols"})
    ->ArgsProduct({{1, 64}, {2048}, {256}})
    ->ArgsProduct({{1, 64}, {1024}, {4096}})
    ->Args({1, 32320, 4096})
    ->UseRealTime();

}  // namespace
}  // namespace dsv4::bench
