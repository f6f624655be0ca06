#include "ops/mtp_join.h"

#include "backend/cpu/ops.h"
#include "support/op_bench.h"

namespace dsv4::bench {
namespace {

void mtp_join(benchmark::State& state) {
  const int num_tokens = static_cast<int>(state.range(0)), hidden_size = static_cast<int>(state.range(1));
  constexpr int kStreams = 4;
  const auto e = fill_bf16(static_cast<size_t>(num_tokens) * hidden_size);
  const auto g = fill_bf16(e.size() * kStreams);
  std::vector<Bf16> streams(g.size());
  for (auto _ : state) cpu::mtp_join({e.data(), g.data(), streams.data(), num_tokens, kStreams, hidden_size});
  report(state, (e.size() + g.size() + streams.size()) * sizeof(Bf16), 0.0, Operands::kWarm);
}
BENCHMARK(mtp_join)->ArgNames({"tokens", "hidden"})->ArgsProduct({{1, 64}, {256, 4096}})->UseRealTime();

}  // namespace
}  // namespace dsv4::bench
