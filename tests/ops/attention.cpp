#include "ops/attention.h"

#include <gtest/gtest.h>

#ifdef _OPENMP
#include <omp.h>
#endif

#include <limits>

#include "backend/cpu/kv_codec.h"
#include "backend/cpu/ops.h"
#include "base/error.h"
#include "support/compare.h"
#include "support/random_data.h"
#include "support/reference.h"
#include "support/step.h"

namespace dsv4 {
namespace {

// Caches with random entries everywhere, so that a wrong address shows, and queries for the rows of a step.
struct Case {
  test::Step step;
  int num_slots, num_heads, head_dim, window, ring_size, ratio;
  std::vector<uint8_t> ring, pages;
  std::vector<Bf16> q, out;
  std::vector<float> sink, freqs = test::plain_frequencies();
  std::vector<int32_t> selected;
  int num_selected = 0;
  bool with_entries = true;

  Case(test::Random& random, const test::Step& s, int slots, int heads, int dim, int win, int ring_entries, int r)
      : step(s), num_slots(slots), num_heads(heads), head_dim(dim), window(win), ring_size(ring_entries), ratio(r) {
    ring.resize(num_slots * layout().page_bytes(ring_size));
    for (int slot = 0; slot < num_slots; ++slot) fill_page(random, ring, slot, ring_size);
    pages.resize(static_cast<size_t>(num_slots) * step.pages_per_slot * layout().page_bytes(entries_per_page()));
    for (int page = 0; page < num_slots * step.pages_per_slot; ++page) fill_page(random, pages, page, entries_per_page());
    q = test::random_bf16(random, step.positions.size() * num_heads * head_dim, 0.5f);
    sink = test::random_floats(random, num_heads);
  }

  KvEntryLayout layout() const { return {head_dim}; }
  int entries_per_page() const { return kPagePositions / ratio; }

  void fill_page(test::Random& random, std::vector<uint8_t>& bytes, int page, int entries) {
    for (int entry = 0; entry < entries; ++entry) {
      const std::vector<Bf16> values = test::random_bf16(random, head_dim);
      cpu::pack_kv_entry(layout(), test::to_floats(values.data(), head_dim).data(),
                         cpu::entry_bytes(layout(), bytes.data(), page, entries, entry));
    }
  }

  void run() {
    out.assign(q.size(), Bf16{0x7fc1});
    AttentionParams params{};
    params.q = q.data();
    params.batch = step.view();
    params.ring = {ring.data(), ring_size};
    params.entries = {with_entries ? pages.data() : nullptr, entries_per_page()};
    params.selected = selected.empty() ? nullptr : selected.data();
    params.sink = sink.data();
    params.freqs = freqs.data();
    params.out = out.data();
    params.num_heads = num_heads;
    params.head_dim = head_dim;
    params.window = window;
    params.ratio = ratio;
    params.num_selected = num_selected;
    params.softmax_scale = static_cast<float>(1.0 / std::sqrt(head_dim));
    cpu::attention(params);
  }

  // The vectors that a row attends to, by the definition.
  std::vector<std::vector<float>> keys(int row) const {
    const int position = step.positions[row], seq = step.seq_idx[row];
    std::vector<std::vector<float>> list;
    for (int p = std::max(0, position - window + 1); p <= position; ++p) {
      const uint8_t* page = ring.data() + step.slots[seq] * layout().page_bytes(ring_size);
      list.push_back(test::read_fp8_entry(head_dim, page, ring_size, p % ring_size));
    }
    if (!with_entries) return list;
    std::vector<int> entries;
    if (selected.empty()) {
      for (int entry = 0; entry < (position + 1) / ratio; ++entry) entries.push_back(entry);
    } else {
      for (int i = 0; i < num_selected; ++i) {
        if (selected[row * num_selected + i] >= 0) entries.push_back(selected[row * num_selected + i]);
      }
    }
    for (const int entry : entries) {
      const int page = step.page_table[seq * step.pages_per_slot + entry / entries_per_page()];
      list.push_back(test::read_fp8_entry(head_dim, pages.data() + page * layout().page_bytes(entries_per_page()), entries_per_page(),
                                          entry % entries_per_page()));
    }
    return list;
  }

  void expect_matches() const {
    for (size_t row = 0; row < step.positions.size(); ++row) {
      const std::vector<std::vector<float>> k = keys(static_cast<int>(row));
      for (int head = 0; head < num_heads; ++head) expect_head(static_cast<int>(row), head, k);
    }
  }

  void expect_head(int row, int head, const std::vector<std::vector<float>>& k) const {
    const Bf16* query = q.data() + (static_cast<size_t>(row) * num_heads + head) * head_dim;
    std::vector<double> logits(k.size(), 0.0);
    double max = -std::numeric_limits<double>::infinity();
    for (size_t j = 0; j < k.size(); ++j) {
      for (int i = 0; i < head_dim; ++i) logits[j] += static_cast<double>(to_float(query[i])) * k[j][i];
      logits[j] *= 1.0 / std::sqrt(head_dim);
      max = std::max(max, logits[j]);
    }
    double denominator = std::exp(sink[head] - max), largest = 0.0;
    std::vector<double> o(head_dim, 0.0);
    for (size_t j = 0; j < k.size(); ++j) {
      const double p = std::exp(logits[j] - max);
      denominator += p;
      largest = std::max(largest, p);
      for (int i = 0; i < head_dim; ++i) o[i] += p * k[j][i];
    }
    for (double& value : o) value /= denominator;
    const std::vector<double> expected = test::reference_rotate(test::round_all(o), step.positions[row], freqs, -1);

    // Sums in fp32: small absolute errors; then the roundings to bf16 of o and of the rotation.
    double dot = 0.0, actual_norm = 0.0, expected_norm = 0.0;
    for (int i = 0; i < head_dim; ++i) {
      const double actual = to_float(out[(static_cast<size_t>(row) * num_heads + head) * head_dim + i]);
      const double slack = 1e-5 * largest * 4.0 / denominator + 0x1p-7 * (std::fabs(expected[i]) + 0.02);
      ASSERT_TRUE(test::close_to(actual, expected[i], slack)) << "row " << row << ", head " << head << ", dim " << i;
      dot += actual * expected[i];
      actual_norm += actual * actual;
      expected_norm += expected[i] * expected[i];
    }
    EXPECT_GT(dot / std::sqrt(actual_norm * expected_norm), 0.99999) << "row " << row << ", head " << head;
  }
};

TEST(Attention, WindowOnly) {
  test::Random random(1);
  for (const int head_dim : {64, 128, 256, 512}) {
    // Position 0 sees itself; further on the window is full and crosses the end of the ring.
    Case input(random, test::Step({{0, 0, 3}, {1, 30, 4}}, 2, 1), 2, 3, head_dim, 8, 11, 4);
    input.with_entries = false;
    input.run();
    input.expect_matches();
  }
}

TEST(Attention, AllVisibleEntries) {
  test::Random random(2);
  // Ratio 128: no entry at 126, the first at 127, two from 255 on.
  Case input(random, test::Step({{1, 126, 3}, {0, 254, 3}}, 2, 2), 2, 4, 128, 16, 20, 128);
  input.run();
  input.expect_matches();
}

TEST(Attention, SelectedEntries) {
  test::Random random(3);
  for (const int num_heads : {1, 4, 6, 20}) {
    Case input(random, test::Step({{0, 700, 2}, {1, 3, 2}}, 2, 3), 2, num_heads, 128, 128, 130, 4);
    input.num_selected = 40;
    for (size_t row = 0; row < input.step.positions.size(); ++row) {
      const int num_visible = num_visible_entries(input.step.positions[row], 4);
      for (int i = 0; i < 40; ++i) {
        const int entry = num_visible > 40 ? i * num_visible / 40 : i;
        input.selected.push_back(entry < num_visible ? entry : -1);
      }
    }
    input.selected[7] = -1;  // a hole in the middle of a list
    input.run();
    input.expect_matches();
  }
}

TEST(Attention, NothingSelectedLeavesTheWindow) {
  test::Random random(4);
  Case input(random, test::Step({{0, 50, 1}}, 1, 1), 1, 2, 64, 8, 9, 4);
  input.num_selected = 5;
  input.selected.assign(5, -1);
  input.run();
  const std::vector<Bf16> none_selected = input.out;
  input.with_entries = false;
  input.run();
  EXPECT_TRUE(test::same_bytes(none_selected, input.out));
}

TEST(Attention, SinkOnlyWeighsInTheDenominator) {
  // One head at position 0, whose only key has a value in dim 1.
  test::Random random(5);
  Case input(random, test::Step({{0, 0, 1}}, 1, 1), 1, 1, 128, 1, 1, 4);
  input.with_entries = false;
  std::vector<float> key(128, 0.0f);
  key[1] = 4.0f;
  cpu::pack_kv_entry(input.layout(), key.data(), cpu::entry_bytes(input.layout(), input.ring.data(), 0, 1, 0));
  std::fill(input.q.begin(), input.q.end(), to_bf16(0.0f));
  input.sink[0] = 0.0f;
  input.run();
  EXPECT_EQ(to_float(input.out[1]), 2.0f);
  input.sink[0] = -std::numeric_limits<float>::infinity();
  input.run();
  EXPECT_EQ(to_float(input.out[1]), 4.0f);
  // The sink is not part of the maximum: one far above it takes everything.
  input.sink[0] = 50.0f;
  input.run();
  EXPECT_TRUE(test::bf16_rounds(input.out[1], 4.0 / (1.0 + std::exp(50.0)), 1e-26));
}

TEST(Attention, ProbabilitiesStayInFp32) {
  // Key 0 has logit 0 and no value, key 1 the logit −x and the value 256: o = bf( 256·p / (1 + p) ), p = e^−x.
  test::Random random(6);
  int num_distinguishing = 0;
  for (int n = 1; n <= 64; ++n) {
    Case input(random, test::Step({{0, 1, 1}}, 1, 1), 1, 1, 128, 2, 2, 4);
    input.with_entries = false;
    std::vector<float> key(128, 0.0f);
    cpu::pack_kv_entry(input.layout(), key.data(), cpu::entry_bytes(input.layout(), input.ring.data(), 0, 2, 0));
    key[1] = 256.0f;
    key[64] = -1.0f;
    cpu::pack_kv_entry(input.layout(), key.data(), cpu::entry_bytes(input.layout(), input.ring.data(), 0, 2, 1));
    std::fill(input.q.begin(), input.q.end(), to_bf16(0.0f));
    input.q[64] = to_bf16(0.25f * static_cast<float>(n));
    input.sink[0] = -std::numeric_limits<float>::infinity();
    input.run();
    const float logit = -0.25f * static_cast<float>(n) * static_cast<float>(1.0 / std::sqrt(128.0));
    const float p = static_cast<float>(std::exp(static_cast<double>(logit)));
    const float expected = round_bf16(256.0f * p / (1.0f + p));
    EXPECT_EQ(to_float(input.out[1]), expected) << "n = " << n;
    num_distinguishing += expected != round_bf16(256.0f * round_bf16(p) / (1.0f + p)) ? 1 : 0;
  }
  EXPECT_GE(num_distinguishing, 5);
}

TEST(Attention, TheOutputIsRotatedBackToTheQuery) {
  // Without other keys and without a sink the output is the own key, turned back by the position.
  test::Random random(7);
  Case input(random, test::Step({{0, 12345, 1}}, 1, 49), 1, 2, 128, 1, 1, 4);
  input.with_entries = false;
  input.sink.assign(2, -std::numeric_limits<float>::infinity());
  input.run();
  const std::vector<float> key = test::read_fp8_entry(128, input.ring.data(), 1, 0);
  const std::vector<double> expected = test::reference_rotate(key, 12345, input.freqs, -1);
  for (int head = 0; head < 2; ++head) {
    for (int i = 0; i < 128; ++i) EXPECT_TRUE(test::bf16_rounds(input.out[head * 128 + i], expected[i], 2e-6)) << i;
  }
}

TEST(Attention, LargeLogitsDoNotOverflow) {
  test::Random random(8);
  Case input(random, test::Step({{0, 100, 1}}, 1, 1), 1, 4, 128, 64, 64, 4);
  for (Bf16& value : input.q) value = to_bf16(to_float(value) * 2000.0f);
  input.run();
  for (const Bf16 value : input.out) EXPECT_TRUE(std::isfinite(to_float(value)));
}

TEST(Attention, RowsAloneAndAnyThreadsGiveTheSameBytes) {
  test::Random random(9);
  Case together(random, test::Step({{1, 500, 40}, {0, 130, 25}}, 2, 3), 2, 8, 128, 128, 168, 128);
  together.run();
  const size_t row_size = 8 * 128;
  for (size_t row = 0; row < together.step.positions.size(); ++row) {
    Case alone = together;
    const int seq = together.step.seq_idx[row];
    alone.step = test::Step({{together.step.slots[seq], together.step.positions[row], 1}}, 2, 3);
    alone.q.assign(together.q.begin() + row * row_size, together.q.begin() + (row + 1) * row_size);
    alone.run();
    ASSERT_TRUE(test::same_bytes(std::span<const Bf16>(alone.out), std::span<const Bf16>(together.out).subspan(row * row_size, row_size)))
        << row;
  }
#ifdef _OPENMP
  const int num_threads = omp_get_max_threads();
  for (const int threads : {1, 3}) {
    Case again = together;
    omp_set_num_threads(threads);
    again.run();
    EXPECT_TRUE(test::same_bytes(again.out, together.out)) << threads << " threads";
  }
  omp_set_num_threads(num_threads);
#endif
}

TEST(Attention, RefusesOddHeadDims) {
  AttentionParams params{};
  params.head_dim = 96;
  EXPECT_THROW(cpu::attention(params), Error);
}

TEST(Attention, PaddingRowsAreZeroAndChangeNoOther) {
  test::Random random(21);
  test::Step step({{0, 40, 1}, {1, 300, 1}}, 2, 2);
  step.add_padding();
  for (const bool select : {false, true}) {
    Case input(random, step, 2, 3, 128, 16, 20, 4);
    if (select) {
      input.num_selected = 2;
      input.selected = {3, 9, 0, 70, -1, -1};
    }
    input.run();
    const size_t row_values = input.q.size() / 3;
    for (size_t i = 2 * row_values; i < input.out.size(); ++i) ASSERT_EQ(input.out[i].bits, 0) << i;
    const std::vector<Bf16> padded(input.out.begin(), input.out.begin() + static_cast<ptrdiff_t>(2 * row_values));
    input.step = test::Step({{0, 40, 1}, {1, 300, 1}}, 2, 2);
    input.q.resize(2 * row_values);
    input.run();
    EXPECT_TRUE(test::same_bytes(input.out, padded));
    input.expect_matches();
  }
}

}  // namespace
}  // namespace dsv4
