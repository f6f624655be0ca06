#include "ops/sample.h"

#include "backend/cpu/ops.h"
#include "support/op_bench.h"

namespace dsv4::bench {
namespace {

enum Mode : int64_t { kGreedy, kDraw, kTopP };

void sample(benchmark::State& state) {
  const int num_rows = static_cast<int>(state.range(0)), vocab_size = static_cast<int>(state.range(1));
  const auto values = fill_bf16(static_cast<size_t>(num_rows) * vocab_size);
  std::vector<float> logits(values.size());
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = 5.0f * to_float(values[i]);
  std::vector<SampleRow> rows(num_rows);
  for (SampleRow& row : rows) {
    row.temperature = state.range(2) == kGreedy ? 0.0f : 1.0f;
    row.top_p = state.range(2) == kTopP ? 0.95f : 1.0f;
  }
  std::vector<int32_t> token_ids(num_rows);
  std::vector<float> logprobs(num_rows);
  for (auto _ : state) {
    cpu::sample({logits.data(), rows.data(), token_ids.data(), logprobs.data(), nullptr, nullptr, num_rows, vocab_size, 0});
    for (SampleRow& row : rows) ++row.draw_idx;
  }
  report(state, logits.size() * sizeof(float), 0.0, Operands::kWarm);
}
BENCHMARK(sample)->ArgNames({"rows", "vocab", "mode"})->ArgsProduct({{1}, {4096, 129280}, {kGreedy, kDraw, kTopP}})->UseRealTime();

}  // namespace
}  // namespace dsv4::bench
