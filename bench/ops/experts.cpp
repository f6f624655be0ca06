#include "ops/experts.h"

#include <algorithm>

#include "backend/cpu/ops.h"
#include "support/op_bench.h"

namespace dsv4::bench {
namespace {

void experts_fp4(benchmark::State& state) {
  const int num_tokens = static_cast<int>(state.range(0)), num_experts = static_cast<int>(state.range(1));
  const int hidden_size = static_cast<int>(state.range(2)), intermediate_size = static_cast<int>(state.range(3));
  constexpr int kSelected = 6;
  const std::vector<Fp4Matrix> up(num_experts, Fp4Matrix(intermediate_size, hidden_size)),
      down(num_experts, Fp4Matrix(hidden_size, intermediate_size)), gate(num_experts, Fp4Matrix(intermediate_size, hidden_size));
  std::vector<ExpertMatrix> w1, w2, w3;
  for (int e = 0; e < num_experts; ++e) {
    w1.push_back(gate[e].view());
    w2.push_back(down[e].view());
    w3.push_back(up[e].view());
  }
  const Fp8Rows x(num_tokens, hidden_size);
  const std::vector<float> weights(static_cast<size_t>(num_tokens) * kSelected, 0.25f);
  std::vector<int32_t> experts(weights.size());
  std::vector<Bf16> out(weights.size() * hidden_size);
  int32_t next = 0;
  for (auto _ : state) {
    // Six experts in turn per token: a decode step meets weights that no cache holds where the experts are large.
    for (int32_t& expert : experts) expert = next++ % num_experts;
    cpu::experts({x.view(), experts.data(), weights.data(), w1.data(), w2.data(), w3.data(), ExpertFormat::kFp4, out.data(), num_tokens,
                  kSelected, num_experts, hidden_size, intermediate_size, 10.0f});
  }
  const int hit = std::min(num_experts, num_tokens * kSelected);
  report(state, 3 * up[0].bytes() * static_cast<size_t>(hit), 6.0 * num_tokens * kSelected * hidden_size * intermediate_size,
         up[0].bytes() >= kWarmBytes ? Operands::kCold : Operands::kWarm);
}
// A small model, then Flash's expert shape with fewer experts.
BENCHMARK(experts_fp4)
    ->ArgNames({"tokens", "experts", "hidden", "intermediate"})
    ->ArgsProduct({{1, 64}, {16}, {256}, {128}})
    ->ArgsProduct({{1, 64}, {24}, {4096}, {2048}})
    ->UseRealTime();

}  // namespace
}  // namespace dsv4::bench
