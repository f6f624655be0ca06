#include <benchmark/benchmark.h>

#include "backend/cpu/kv_codec.h"
#include "backend/cpu/ops.h"
#include "ops/one_sequence.h"

namespace dsv4 {
namespace {

// Arguments: head_dim, heads, selected entries (0: all visible ones, ratio 128), context, rows.
void attention(benchmark::State& state) {
  const int head_dim = static_cast<int>(state.range(0));
  const int num_heads = static_cast<int>(state.range(1));
  const int num_selected = static_cast<int>(state.range(2));
  const int context = static_cast<int>(state.range(3));
  const int num_rows = static_cast<int>(state.range(4));
  const bench::OneSequence sequence(context, num_rows);
  const KvEntryLayout layout{head_dim};
  const int ratio = num_selected > 0 ? 4 : 128;
  const int ring_size = 128 + num_rows;
  const int entries_per_page = kPagePositions / ratio;

  const std::vector<float> values = bench::random_floats(head_dim);
  std::vector<uint8_t> ring(layout.page_bytes(ring_size)), pages(sequence.num_pages() * layout.page_bytes(entries_per_page));
  for (int i = 0; i < ring_size; ++i) cpu::pack_kv_entry(layout, values.data(), cpu::entry_bytes(layout, ring.data(), 0, ring_size, i));
  for (int i = 0; i < sequence.num_pages() * entries_per_page; ++i) {
    cpu::pack_kv_entry(layout, values.data(),
                       cpu::entry_bytes(layout, pages.data(), i / entries_per_page, entries_per_page, i % entries_per_page));
  }
  std::vector<int32_t> selected(static_cast<size_t>(num_rows) * num_selected);
  for (size_t i = 0; i < selected.size(); ++i) {
    selected[i] = static_cast<int32_t>(static_cast<int64_t>(i % num_selected) * (context / ratio - num_rows) / num_selected);
  }
  const std::vector<Bf16> q = bench::random_bf16(static_cast<size_t>(num_rows) * num_heads * head_dim);
  const std::vector<float> sink(num_heads), freqs(kRopeDim / 2, 0.01f);
  std::vector<Bf16> out(q.size());

  AttentionParams params{};
  params.q = q.data();
  params.batch = sequence.view();
  params.ring = {ring.data(), ring_size};
  params.entries = {pages.data(), entries_per_page};
  params.selected = num_selected > 0 ? selected.data() : nullptr;
  params.sink = sink.data();
  params.freqs = freqs.data();
  params.out = out.data();
  params.num_heads = num_heads;
  params.head_dim = head_dim;
  params.window = 128;
  params.ratio = ratio;
  params.num_selected = num_selected;
  params.softmax_scale = 0.05f;
  for (auto _ : state) cpu::attention(params);
  state.SetItemsProcessed(state.iterations() * num_rows);
}

BENCHMARK(attention)
    ->ArgNames({"head_dim", "heads", "selected", "context", "rows"})
    ->Args({128, 8, 128, 32768, 1})
    ->Args({128, 8, 128, 32768, 64})
    ->Args({128, 8, 0, 32768, 64})
    ->Args({512, 64, 512, 32768, 1})
    ->UseRealTime();

}  // namespace
}  // namespace dsv4
