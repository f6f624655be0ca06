#include "ops/kv_store.h"

#include "backend/cpu/ops.h"
#include "ops/one_sequence.h"
#include "support/op_bench.h"

namespace dsv4::bench {
namespace {

void kv_store(benchmark::State& state) {
  const int num_rows = static_cast<int>(state.range(0)), head_dim = static_cast<int>(state.range(1));
  const OneSequence sequence(4096, num_rows);
  const int ring_size = 128 + num_rows;
  const auto kv = fill_bf16(static_cast<size_t>(num_rows) * head_dim), weight = fill_bf16(head_dim);
  const std::vector<float> freqs(kRopeDim / 2, 0.01f);
  const KvEntryLayout layout{head_dim};
  std::vector<uint8_t> ring(layout.page_bytes(ring_size));
  for (auto _ : state) cpu::kv_store({kv.data(), weight.data(), freqs.data(), sequence.view(), {ring.data(), ring_size}, head_dim, 1e-6f});
  report(state, kv.size() * sizeof(Bf16) + num_rows * layout.entry_bytes(), 0.0, Operands::kWarm);
}
BENCHMARK(kv_store)->ArgNames({"rows", "head_dim"})->ArgsProduct({{1, 64}, {128, 512}})->UseRealTime();

}  // namespace
}  // namespace dsv4::bench
