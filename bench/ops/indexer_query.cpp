#include "ops/indexer_query.h"

#include "backend/cpu/ops.h"
#include "ops/kv_layout.h"
#include "support/op_bench.h"

namespace dsv4::bench {
namespace {

void indexer_query(benchmark::State& state) {
  constexpr int kDim = 128;
  const int num_tokens = static_cast<int>(state.range(0)), num_heads = static_cast<int>(state.range(1));
  const auto iq = fill_bf16(static_cast<size_t>(num_tokens) * num_heads * kDim);
  const std::vector<int32_t> positions(num_tokens, 4321);
  const std::vector<float> freqs(kRopeDim / 2, 0.01f);
  std::vector<uint8_t> codes(iq.size() / 2), scales(iq.size() / kIndexerFp4Block);
  for (auto _ : state) {
    cpu::indexer_query({iq.data(), positions.data(), freqs.data(), codes.data(), scales.data(), num_tokens, num_heads, kDim, kRopeDim});
  }
  report(state, iq.size() * sizeof(Bf16) + codes.size() + scales.size(), 0.0, Operands::kWarm);
}
BENCHMARK(indexer_query)->ArgNames({"tokens", "heads"})->ArgsProduct({{1, 64}, {4, 64}})->UseRealTime();

}  // namespace
}  // namespace dsv4::bench
