// Steps of the attention op with random queries and caches, on the host and in device memory.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/cpu/kv_codec.h"
#include "backend/cpu/ops.h"
#include "cuda/support/gpu.h"
#include "ops/attention.h"
#include "support/random_data.h"
#include "support/reference.h"
#include "support/step.h"

namespace dsv4::test {

struct Dims {
  int num_heads, head_dim, window, ring_size;
  int ratio = 0;         // 0: window only
  int num_selected = 0;  // 0: all visible entries
};

// Queries and caches of a step. Only entries that some row attends to are numbers; all other cache bytes are 0xff, NaN in every format.
struct Case {
  Step step;
  int num_slots, num_heads, head_dim, window, ring_size, ratio, num_selected;
  std::vector<uint8_t> ring, pages;
  std::vector<Bf16> q;
  std::vector<float> sink, freqs = plain_frequencies();
  std::vector<int32_t> selected;
  std::vector<int32_t> key_counts;  // empty: all keys
  int max_visible = 0;              // the hint
  int64_t scratch_bytes = kAttentionMaxScratch / 4;

  Case(const Step& rows, int slots, const Dims& dims)
      : step(rows),
        num_slots(slots),
        num_heads(dims.num_heads),
        head_dim(dims.head_dim),
        window(dims.window),
        ring_size(dims.ring_size),
        ratio(dims.ratio),
        num_selected(dims.num_selected) {}

  KvEntryLayout layout() const { return {head_dim}; }
  int entries_per_page() const { return ratio == 0 ? 1 : kPagePositions / ratio; }
  int num_rows() const { return static_cast<int>(step.positions.size()); }
  size_t row_values() const { return static_cast<size_t>(num_heads) * head_dim; }
  int num_visible(int row) const { return ratio == 0 ? 0 : num_visible_entries(step.positions[row], ratio); }
};

// Lists with holes and repeats: −1 here and there, else any visible entry.
inline void select_entries(Random& random, Case& input) {
  input.selected.clear();
  for (int row = 0; row < input.num_rows(); ++row) {
    const int visible = input.num_visible(row);
    for (int i = 0; i < input.num_selected; ++i) {
      const bool none = i >= visible || random.below(8) == 0;
      input.selected.push_back(none ? -1 : random.below(visible));
    }
  }
}

inline void fill_entry(Random& random, const Case& input, std::vector<uint8_t>& bytes, int page, int entries, int entry) {
  const std::vector<Bf16> values = random_bf16(random, input.head_dim);
  cpu::pack_kv_entry(input.layout(), to_floats(values.data(), input.head_dim).data(),
                     cpu::entry_bytes(input.layout(), bytes.data(), page, entries, entry));
}

// Random numbers in the entries that the rows see (once each).
inline void fill_caches(Random& random, Case& input) {
  input.ring.assign(input.num_slots * input.layout().page_bytes(input.ring_size), 0xff);
  const int num_pages = input.num_slots * input.step.pages_per_slot;
  input.pages.assign(num_pages * input.layout().page_bytes(input.entries_per_page()), 0xff);
  std::vector<bool> ring_done(static_cast<size_t>(input.num_slots) * input.ring_size);
  std::vector<bool> entry_done(static_cast<size_t>(num_pages) * input.entries_per_page());
  for (int row = 0; row < input.num_rows(); ++row) {
    const int position = input.step.positions[row], seq = input.step.seq_idx[row], slot = input.step.slots[seq];
    for (int p = std::max(0, position - input.window + 1); p <= position; ++p) {
      const int place = p % input.ring_size;
      if (ring_done[slot * input.ring_size + place]) continue;
      ring_done[slot * input.ring_size + place] = true;
      fill_entry(random, input, input.ring, slot, input.ring_size, place);
    }
    const int count = input.num_selected > 0 ? input.num_selected : input.num_visible(row);
    for (int i = 0; i < count; ++i) {
      const int entry = input.num_selected > 0 ? input.selected[static_cast<size_t>(row) * count + i] : i;
      if (entry < 0) continue;
      const int page = input.step.page_table[seq * input.step.pages_per_slot + entry / input.entries_per_page()];
      const size_t index = static_cast<size_t>(page) * input.entries_per_page() + entry % input.entries_per_page();
      if (entry_done[index]) continue;
      entry_done[index] = true;
      fill_entry(random, input, input.pages, page, input.entries_per_page(), entry % input.entries_per_page());
    }
  }
}

inline Case make_case(uint64_t seed, const std::vector<SequenceRows>& sequences, int num_slots, int pages_per_slot, const Dims& dims) {
  Random random(seed);
  Case input(Step(sequences, num_slots, pages_per_slot), num_slots, dims);
  select_entries(random, input);
  fill_caches(random, input);
  input.q = random_bf16(random, input.num_rows() * input.row_values());
  input.sink = random_floats(random, dims.num_heads);
  return input;
}

// The params without pointers.
inline AttentionParams dims_of(const Case& input) {
  AttentionParams params{};
  params.num_heads = input.num_heads;
  params.head_dim = input.head_dim;
  params.window = input.window;
  params.ratio = input.ratio;
  params.num_selected = input.num_selected;
  params.softmax_scale = static_cast<float>(1.0 / std::sqrt(input.head_dim));
  params.max_visible = input.max_visible;
  return params;
}

inline std::vector<Bf16> run_cpu(const Case& input) {
  std::vector<Bf16> out(input.q.size());
  std::vector<uint8_t> ring = input.ring, pages = input.pages;
  AttentionParams params = dims_of(input);
  params.q = input.q.data();
  params.batch = input.step.view();
  params.ring = {ring.data(), input.ring_size};
  if (input.ratio > 0) params.entries = {pages.data(), input.entries_per_page()};
  if (input.num_selected > 0) params.selected = input.selected.data();
  params.sink = input.sink.data();
  params.freqs = input.freqs.data();
  params.out = out.data();
  if (!input.key_counts.empty()) params.key_counts = input.key_counts.data();
  cpu::attention(params);
  return out;
}

// A case in device memory.
class DeviceCase {
 public:
  DeviceCase(Backend& gpu, const Case& input)
      : input_(input),
        q_(gpu, input.q),
        token_ids_(gpu, input.step.token_ids),
        positions_(gpu, input.step.positions),
        seq_idx_(gpu, input.step.seq_idx),
        row_begin_(gpu, input.step.row_begin),
        slots_(gpu, input.step.slots),
        page_table_(gpu, input.step.page_table),
        selected_(gpu, input.selected.empty() ? std::vector<int32_t>{-1} : input.selected),
        key_counts_(gpu, input.key_counts.empty() ? std::vector<int32_t>{-1} : input.key_counts),
        ring_(gpu, input.ring),
        pages_(gpu, input.pages),
        sink_(gpu, input.sink),
        freqs_(gpu, input.freqs),
        out_(gpu, input.q.size()),
        out_fp32_(gpu, input.q.size()),
        codes_(gpu, input.q.size()),
        scales_(gpu, input.q.size() / kAttentionFp4Block),
        lse_(gpu, static_cast<size_t>(input.num_rows()) * input.num_heads),
        scratch_(gpu, static_cast<size_t>(input.scratch_bytes)) {}

  AttentionParams params() const {
    AttentionParams params = dims_of(input_);
    params.q = q_.data();
    params.batch = input_.step.view();
    params.batch.token_ids = token_ids_.data();
    params.batch.positions = positions_.data();
    params.batch.seq_idx = seq_idx_.data();
    params.batch.row_begin = row_begin_.data();
    params.batch.slots = slots_.data();
    params.batch.page_table = page_table_.data();
    params.ring = {ring_.data(), input_.ring_size};
    if (input_.ratio > 0) params.entries = {pages_.data(), input_.entries_per_page()};
    if (input_.num_selected > 0) params.selected = selected_.data();
    params.sink = sink_.data();
    params.freqs = freqs_.data();
    if (!input_.key_counts.empty()) params.key_counts = key_counts_.data();
    params.out = out_.data();
    params.scratch = scratch_.data();
    params.scratch_bytes = input_.scratch_bytes;
    return params;
  }
  // The same with another output, and the LSE.
  AttentionParams params(AttentionOutput output) const {
    AttentionParams params = this->params();
    params.output = output;
    if (output == AttentionOutput::kFp32) params.out = out_fp32_.data();
    if (output == AttentionOutput::kFp8 || output == AttentionOutput::kFp4) params.out = codes_.data();
    params.out_scales = scales_.data();
    params.lse = lse_.data();
    return params;
  }
  std::vector<Bf16> out() const { return out_.host(); }
  std::vector<float> out_fp32() const { return out_fp32_.host(); }
  std::vector<uint8_t> codes() const { return codes_.host(); }
  std::vector<uint8_t> scales() const { return scales_.host(); }
  std::vector<float> lse() const { return lse_.host(); }
  bool caches_are_unchanged() const { return ring_.host() == input_.ring && pages_.host() == input_.pages; }

 private:
  const Case& input_;
  DeviceArray<Bf16> q_;
  DeviceArray<int32_t> token_ids_, positions_, seq_idx_, row_begin_, slots_, page_table_, selected_, key_counts_;
  DeviceArray<uint8_t> ring_, pages_;
  DeviceArray<float> sink_, freqs_;
  DeviceArray<Bf16> out_;
  DeviceArray<float> out_fp32_;
  DeviceArray<uint8_t> codes_, scales_;
  DeviceArray<float> lse_;
  DeviceArray<uint8_t> scratch_;
};

inline std::vector<Bf16> run_gpu(Backend& gpu, const Case& input) {
  const DeviceCase device(gpu, input);
  gpu.attention(device.params());
  return device.out();
}

}  // namespace dsv4::test
