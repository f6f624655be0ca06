#include <benchmark/benchmark.h>

#include "backend/cpu/kv_codec.h"
#include "backend/cpu/ops.h"
#include "ops/one_sequence.h"

namespace dsv4 {
namespace {

// Arguments: heads, context, rows; index_head_dim 128, ratio 4.
void index_scores(benchmark::State& state) {
  constexpr int kDim = 128;
  constexpr int kRatio = 4;
  const int num_heads = static_cast<int>(state.range(0));
  const int context = static_cast<int>(state.range(1));
  const int num_rows = static_cast<int>(state.range(2));
  const bench::OneSequence sequence(context, num_rows);
  const IndexEntryLayout layout{kDim};
  const int entries_per_page = kPagePositions / kRatio;

  std::vector<uint8_t> pages(sequence.num_pages() * layout.page_bytes(entries_per_page));
  const std::vector<float> values = bench::random_floats(kDim);
  for (int i = 0; i < sequence.num_pages() * entries_per_page; ++i) {
    const auto entry = cpu::entry_bytes(layout, pages.data(), i / entries_per_page, entries_per_page, i % entries_per_page);
    cpu::pack_fp4_row(kDim, values.data(), entry.values, entry.scales);
  }
  const size_t num_queries = static_cast<size_t>(num_rows) * num_heads;
  const std::vector<uint8_t> codes = bench::random_bytes(num_queries * layout.value_bytes());
  const std::vector<uint8_t> scales(num_queries * layout.scale_bytes(), 125);
  const std::vector<Bf16> weights = bench::random_bf16(num_queries);
  std::vector<Bf16> scores(static_cast<size_t>(num_rows) * (context / kRatio));

  IndexScoresParams params{};
  params.codes = codes.data();
  params.scales = scales.data();
  params.weights = weights.data();
  params.batch = sequence.view();
  params.entries = {pages.data(), entries_per_page};
  params.scores = scores.data();
  params.score_stride = context / kRatio;
  params.row_begin = 0;
  params.row_end = num_rows;
  params.num_heads = num_heads;
  params.index_head_dim = kDim;
  params.ratio = kRatio;
  params.topk = 64;
  for (auto _ : state) cpu::index_scores(params);
  state.SetItemsProcessed(state.iterations() * num_rows);
}

BENCHMARK(index_scores)
    ->ArgNames({"heads", "context", "rows"})
    ->Args({4, 32768, 1})
    ->Args({4, 32768, 64})
    ->Args({64, 32768, 1})
    ->UseRealTime();

}  // namespace
}  // namespace dsv4
