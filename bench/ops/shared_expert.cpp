#include "ops/shared_expert.h"

#include "backend/cpu/ops.h"
#include "support/op_bench.h"

namespace dsv4::bench {
namespace {

void shared_expert(benchmark::State& state) {
  const int num_tokens = static_cast<int>(state.range(0)), hidden_size = static_cast<int>(state.range(1)),
            intermediate_size = static_cast<int>(state.range(2));
  const size_t copies = static_cast<size_t>(num_copies(static_cast<size_t>(hidden_size) * intermediate_size));
  const std::vector<Fp8Matrix> up(copies, Fp8Matrix(intermediate_size, hidden_size)),
      down(copies, Fp8Matrix(hidden_size, intermediate_size));
  const Fp8Rows x(num_tokens, hidden_size);
  std::vector<Bf16> out(static_cast<size_t>(num_tokens) * hidden_size);
  size_t copy = 0;
  for (auto _ : state) {
    const Fp8Weight w1 = up[copy++ % copies].view(), w2 = down[copy % copies].view(), w3 = up[copy % copies].view();
    cpu::shared_expert({x.view(), w1, w2, w3, out.data(), num_tokens, 10.0f});
  }
  report(state, 3 * up[0].bytes(), 6.0 * num_tokens * hidden_size * intermediate_size, copies > 1 ? Operands::kCold : Operands::kWarm);
}
BENCHMARK(shared_expert)
    ->ArgNames({"tokens", "hidden", "intermediate"})
    ->ArgsProduct({{1, 64}, {256}, {128}})
    ->ArgsProduct({{1, 64}, {4096}, {2048}})
    ->UseRealTime();

}  // namespace
}  // namespace dsv4::bench
