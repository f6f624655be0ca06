#include "ops/query_norm.h"

#include "backend/cpu/ops.h"
#include "ops/kv_layout.h"
#include "support/op_bench.h"

namespace dsv4::bench {
namespace {

void query_norm(benchmark::State& state) {
  const int num_tokens = static_cast<int>(state.range(0)), num_heads = static_cast<int>(state.range(1));
  const int head_dim = static_cast<int>(state.range(2));
  auto q = fill_bf16(static_cast<size_t>(num_tokens) * num_heads * head_dim);
  const std::vector<int32_t> positions(num_tokens, 4321);
  const std::vector<float> freqs(kRopeDim / 2, 0.01f);
  for (auto _ : state) cpu::query_norm({q.data(), positions.data(), freqs.data(), num_tokens, num_heads, head_dim, kRopeDim, 1e-6f});
  report(state, 2 * q.size() * sizeof(Bf16), 0.0, Operands::kWarm);
}
BENCHMARK(query_norm)->ArgNames({"tokens", "heads", "head_dim"})->Args({1, 8, 128})->Args({64, 8, 128})->Args({1, 64, 512})->UseRealTime();

}  // namespace
}  // namespace dsv4::bench
