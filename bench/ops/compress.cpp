#include "ops/compress.h"

#include "backend/cpu/ops.h"
#include "ops/one_sequence.h"
#include "support/op_bench.h"

namespace dsv4::bench {
namespace {

// Main entries (FP8) of either ratio; rows end on a block, so that every call stores entries.
void compress(benchmark::State& state) {
  const int ratio = static_cast<int>(state.range(0)), dim = static_cast<int>(state.range(1)), num_rows = static_cast<int>(state.range(2));
  const OneSequence sequence(4096, num_rows);
  const int width = ratio == 4 ? 2 * dim : dim, state_tokens = ratio == 4 ? 8 : ratio, entries_per_page = kPagePositions / ratio;
  const std::vector<float> kv(static_cast<size_t>(num_rows) * width, 1.0f), gate(kv.size(), 0.5f), freqs(kRopeDim / 2, 0.01f);
  const std::vector<float> ape(static_cast<size_t>(ratio) * width, 0.1f);
  const auto weight = fill_bf16(dim);
  std::vector<float> ring(static_cast<size_t>(2) * state_tokens * width, 0.25f);
  std::vector<uint8_t> pages(sequence.num_pages() * KvEntryLayout{dim}.page_bytes(entries_per_page));
  for (auto _ : state) {
    cpu::compress({kv.data(),
                   gate.data(),
                   ape.data(),
                   weight.data(),
                   freqs.data(),
                   sequence.view(),
                   ring.data(),
                   {pages.data(), entries_per_page},
                   EntryFormat::kFp8,
                   ratio,
                   dim,
                   state_tokens,
                   1e-6f});
  }
  report(state, 2 * kv.size() * sizeof(float), 0.0, Operands::kWarm);
}
BENCHMARK(compress)
    ->ArgNames({"ratio", "dim", "rows"})
    ->Args({4, 128, 1})
    ->Args({4, 128, 64})
    ->Args({128, 128, 1})
    ->Args({128, 128, 128})
    ->Args({4, 512, 64})
    ->UseRealTime();

}  // namespace
}  // namespace dsv4::bench
