#include <benchmark/benchmark.h>

#include "backend/cpu/ops.h"
#include "ops/one_sequence.h"

namespace dsv4 {
namespace {

// Arguments: topk, context, rows; ratio 4.
void topk(benchmark::State& state) {
  constexpr int kRatio = 4;
  const int k = static_cast<int>(state.range(0));
  const int context = static_cast<int>(state.range(1));
  const int num_rows = static_cast<int>(state.range(2));
  const bench::OneSequence sequence(context, num_rows);
  const std::vector<Bf16> scores = bench::random_bf16(static_cast<size_t>(num_rows) * (context / kRatio));
  std::vector<int32_t> selected(static_cast<size_t>(num_rows) * k);

  TopkParams params{};
  params.scores = scores.data();
  params.positions = sequence.positions.data();
  params.selected = selected.data();
  params.score_stride = context / kRatio;
  params.row_begin = 0;
  params.row_end = num_rows;
  params.ratio = kRatio;
  params.topk = k;
  for (auto _ : state) cpu::topk(params);
  state.SetItemsProcessed(state.iterations() * num_rows);
}

BENCHMARK(topk)->ArgNames({"topk", "context", "rows"})->Args({64, 32768, 1})->Args({128, 32768, 64})->Args({512, 131072, 1})->UseRealTime();

}  // namespace
}  // namespace dsv4
