#include "ops/index_scores.h"

#include "backend/cpu/kv_codec.h"
#include "backend/cpu/ops.h"
#include "ops/one_sequence.h"
#include "support/op_bench.h"

namespace dsv4::bench {
namespace {

void index_scores(benchmark::State& state) {
  constexpr int kDim = 128, kRatio = 4, kEntriesPerPage = kPagePositions / kRatio;
  const int num_heads = static_cast<int>(state.range(0)), context = static_cast<int>(state.range(1));
  const int num_rows = static_cast<int>(state.range(2));
  const OneSequence sequence(context, num_rows);
  const IndexEntryLayout layout{kDim};
  const size_t num_queries = static_cast<size_t>(num_rows) * num_heads;

  auto pages = fill_bytes(sequence.num_pages() * layout.page_bytes(kEntriesPerPage));
  for (int i = 0; i < sequence.num_pages() * kEntriesPerPage; ++i) {
    const auto entry = cpu::entry_bytes(layout, pages.data(), i / kEntriesPerPage, kEntriesPerPage, i % kEntriesPerPage);
    std::fill_n(entry.scales, layout.scale_bytes(), uint8_t{125});
  }
  const auto codes = fill_bytes(num_queries * layout.value_bytes()), scales = fill_scales(num_queries * layout.scale_bytes());
  const auto weights = fill_bf16(num_queries);
  std::vector<Bf16> scores(static_cast<size_t>(num_rows) * (context / kRatio));
  for (auto _ : state) {
    cpu::index_scores({codes.data(),
                       scales.data(),
                       weights.data(),
                       sequence.view(),
                       {pages.data(), kEntriesPerPage},
                       scores.data(),
                       context / kRatio,
                       0,
                       num_rows,
                       num_heads,
                       kDim,
                       kRatio,
                       64});
  }
  report(state, static_cast<size_t>(context / kRatio) * layout.entry_bytes() + scores.size() * sizeof(Bf16),
         2.0 * static_cast<double>(scores.size()) * num_heads * kDim, Operands::kWarm);
}
BENCHMARK(index_scores)
    ->ArgNames({"heads", "context", "rows"})
    ->Args({4, 32768, 1})
    ->Args({4, 32768, 64})
    ->Args({64, 32768, 1})
    ->UseRealTime();

}  // namespace
}  // namespace dsv4::bench
