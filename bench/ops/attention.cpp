#include "ops/attention.h"

#include "backend/cpu/kv_codec.h"
#include "backend/cpu/ops.h"
#include "ops/one_sequence.h"
#include "support/op_bench.h"

namespace dsv4::bench {
namespace {

std::vector<uint8_t> fill_entries(KvEntryLayout layout, int num_pages, int entries_per_page) {
  std::vector<uint8_t> bytes(num_pages * layout.page_bytes(entries_per_page));
  const std::vector<Bf16> values = fill_bf16(layout.head_dim);
  std::vector<float> row(values.size());
  for (size_t i = 0; i < row.size(); ++i) row[i] = to_float(values[i]);
  for (int i = 0; i < num_pages * entries_per_page; ++i) {
    cpu::pack_kv_entry(layout, row.data(),
                       cpu::entry_bytes(layout, bytes.data(), i / entries_per_page, entries_per_page, i % entries_per_page));
  }
  return bytes;
}

// `selected` entries of ratio 4, or with 0 all visible entries of ratio 128.
void attention(benchmark::State& state) {
  const int head_dim = static_cast<int>(state.range(0)), num_heads = static_cast<int>(state.range(1));
  const int num_selected = static_cast<int>(state.range(2)), context = static_cast<int>(state.range(3));
  const int num_rows = static_cast<int>(state.range(4));
  const int ratio = num_selected > 0 ? 4 : 128, window = 128, ring_size = window + num_rows;
  const int entries_per_page = kPagePositions / ratio;
  const OneSequence sequence(context, num_rows);
  const KvEntryLayout layout{head_dim};
  const auto ring = fill_entries(layout, 1, ring_size), pages = fill_entries(layout, sequence.num_pages(), entries_per_page);
  std::vector<int32_t> selected(static_cast<size_t>(num_rows) * num_selected);
  for (size_t i = 0; i < selected.size(); ++i) {
    selected[i] = static_cast<int32_t>(i) % num_selected * ((context - num_rows) / ratio / num_selected);
  }
  const auto q = fill_bf16(static_cast<size_t>(num_rows) * num_heads * head_dim);
  const std::vector<float> sink(num_heads), freqs(kRopeDim / 2, 0.01f);
  std::vector<Bf16> out(q.size());

  AttentionParams params{};
  params.q = q.data();
  params.batch = sequence.view();
  params.ring = {const_cast<uint8_t*>(ring.data()), ring_size};
  params.entries = {const_cast<uint8_t*>(pages.data()), entries_per_page};
  params.selected = num_selected > 0 ? selected.data() : nullptr;
  params.sink = sink.data();
  params.freqs = freqs.data();
  params.out = out.data();
  params.num_heads = num_heads;
  params.head_dim = head_dim;
  params.window = window;
  params.ratio = ratio;
  params.num_selected = num_selected;
  params.softmax_scale = 0.05f;
  for (auto _ : state) cpu::attention(params);
  const size_t num_keys = static_cast<size_t>(num_rows) * (window + (num_selected > 0 ? num_selected : context / ratio));
  report(state, num_keys * layout.entry_bytes() + 2 * q.size() * sizeof(Bf16), 4.0 * static_cast<double>(num_keys) * num_heads * head_dim,
         Operands::kWarm);
}
BENCHMARK(attention)
    ->ArgNames({"head_dim", "heads", "selected", "context", "rows"})
    ->Args({128, 8, 128, 32768, 1})
    ->Args({128, 8, 128, 32768, 64})
    ->Args({128, 8, 0, 32768, 64})
    ->Args({512, 64, 512, 32768, 1})
    ->UseRealTime();

}  // namespace
}  // namespace dsv4::bench
