#include "ops/embed.h"

#include "backend/cpu/ops.h"
#include "support/op_bench.h"

namespace dsv4::bench {
namespace {

void embed(benchmark::State& state) {
  const int num_tokens = static_cast<int>(state.range(0)), hidden_size = static_cast<int>(state.range(1));
  constexpr int kVocab = 2048, kStreams = 4;
  const auto table = fill_bf16(static_cast<size_t>(kVocab) * hidden_size);
  std::vector<int32_t> token_ids(num_tokens);
  for (int t = 0; t < num_tokens; ++t) token_ids[t] = t * 977 % kVocab;
  std::vector<Bf16> streams(static_cast<size_t>(num_tokens) * kStreams * hidden_size);
  for (auto _ : state) cpu::embed({token_ids.data(), table.data(), streams.data(), num_tokens, kStreams, hidden_size});
  report(state, streams.size() * sizeof(Bf16) / kStreams * (kStreams + 1), 0.0, Operands::kWarm);
}
BENCHMARK(embed)->ArgNames({"tokens", "hidden"})->ArgsProduct({{1, 64}, {256, 4096}})->UseRealTime();

}  // namespace
}  // namespace dsv4::bench
