#include "ops/topk.h"

#include "backend/cpu/ops.h"
#include "ops/one_sequence.h"
#include "support/op_bench.h"

namespace dsv4::bench {
namespace {

void topk(benchmark::State& state) {
  const int k = static_cast<int>(state.range(0)), num_entries = static_cast<int>(state.range(1)),
            num_rows = static_cast<int>(state.range(2));
  const std::vector<int32_t> positions(num_rows, 4 * num_entries - 1);
  const auto scores = fill_bf16(static_cast<size_t>(num_rows) * num_entries);
  std::vector<int32_t> selected(static_cast<size_t>(num_rows) * k);
  for (auto _ : state) cpu::topk({scores.data(), positions.data(), selected.data(), num_entries, 0, num_rows, 4, k});
  report(state, scores.size() * sizeof(Bf16) + selected.size() * sizeof(int32_t), 0.0, Operands::kWarm);
}
BENCHMARK(topk)->ArgNames({"topk", "entries", "rows"})->Args({64, 8192, 1})->Args({128, 8192, 64})->Args({512, 32768, 1})->UseRealTime();

}  // namespace
}  // namespace dsv4::bench
