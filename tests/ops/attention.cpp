#include "ops/attention.h"

#include <gtest/gtest.h>

#ifdef _OPENMP
#include <omp.h>
#endif

#include <algorithm>
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
  AttentionOutput output = AttentionOutput::kBf16;
  bool with_lse = true;
  std::vector<int32_t> key_counts;  // empty: all
  std::vector<float> out_fp32, lse;
  std::vector<uint8_t> codes, scales;

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

  // Runs the op into poisoned outputs: `out`, `out_fp32`, or `codes` and `scales`, by `output`.
  void run() {
    const size_t num_heads_all = step.positions.size() * num_heads;
    out.assign(q.size(), Bf16{0x7fc1});
    out_fp32.assign(q.size(), std::numeric_limits<float>::quiet_NaN());
    lse.assign(num_heads_all, std::numeric_limits<float>::quiet_NaN());
    codes.assign(q.size() / (output == AttentionOutput::kFp4 ? 2 : 1), 0xff);
    scales.assign(num_heads_all * scales_per_head(), 0xff);
    AttentionParams params{};
    params.q = q.data();
    params.batch = step.view();
    params.ring = {ring.data(), ring_size};
    params.entries = {with_entries ? pages.data() : nullptr, entries_per_page()};
    params.selected = selected.empty() ? nullptr : selected.data();
    params.sink = sink.data();
    params.freqs = freqs.data();
    params.num_heads = num_heads;
    params.head_dim = head_dim;
    params.window = window;
    params.ratio = ratio;
    params.num_selected = num_selected;
    params.softmax_scale = static_cast<float>(1.0 / std::sqrt(head_dim));
    params.output = output;
    params.out = out.data();
    if (output == AttentionOutput::kFp32) params.out = out_fp32.data();
    if (output == AttentionOutput::kFp8 || output == AttentionOutput::kFp4) {
      params.out = codes.data();
      params.out_scales = scales.data();
    }
    if (with_lse) params.lse = lse.data();
    if (!key_counts.empty()) params.key_counts = key_counts.data();
    cpu::attention(params);
  }

  void run(AttentionOutput format) {
    output = format;
    run();
  }

  // Whether the output bytes of heads [begin, end), all rows counted through, are 0: +0 in every format.
  bool values_are_zero(size_t begin, size_t end) const {
    const auto is_zero = [](const auto& values, size_t first, size_t last) {
      const auto* bytes = reinterpret_cast<const uint8_t*>(values.data());
      return std::all_of(bytes + first * sizeof values[0], bytes + last * sizeof values[0], [](uint8_t byte) { return byte == 0; });
    };
    begin *= head_dim;
    end *= head_dim;
    if (output == AttentionOutput::kBf16) return is_zero(out, begin, end);
    if (output == AttentionOutput::kFp32) return is_zero(out_fp32, begin, end);
    return output == AttentionOutput::kFp8 ? is_zero(codes, begin, end) : is_zero(codes, begin / 2, end / 2);
  }

  int scales_per_head() const { return output == AttentionOutput::kFp4 ? head_dim / 32 : (head_dim + 127) / 128; }
  std::vector<float> head_of(const std::vector<Bf16>& values, size_t head) const {
    return test::to_floats(values.data() + head * head_dim, head_dim);
  }

  // The vectors that a row attends to, by the definition.
  std::vector<std::vector<float>> keys(int row) const {
    const int position = step.positions[row], seq = step.seq_idx[row];
    std::vector<std::vector<float>> list;
    const int num_last = key_counts.empty() ? window : std::min(window, key_counts[2 * row]);
    const int num_first = key_counts.empty() ? std::numeric_limits<int>::max() : key_counts[2 * row + 1];
    for (int p = std::max(0, position - num_last + 1); p <= position; ++p) {
      const uint8_t* page = ring.data() + step.slots[seq] * layout().page_bytes(ring_size);
      list.push_back(test::read_fp8_entry(head_dim, page, ring_size, p % ring_size));
    }
    if (!with_entries) return list;
    std::vector<int> entries;
    if (selected.empty()) {
      for (int entry = 0; entry < std::min((position + 1) / ratio, num_first); ++entry) entries.push_back(entry);
    } else {
      for (int i = 0; i < std::min(num_selected, num_first); ++i) {
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

  // One head by the formula in fp64: the output before its rotation, and what the errors of fp32 sums are measured by.
  struct Head {
    std::vector<double> o;
    double lse, largest, denominator;  // the largest probability and the sum of all, both relative to the largest logit
  };

  Head head_by_formula(int row, int head, const std::vector<std::vector<float>>& k) const {
    const Bf16* query = q.data() + (static_cast<size_t>(row) * num_heads + head) * head_dim;
    Head result{std::vector<double>(head_dim, 0.0), sink[head], 0.0, 1.0};
    if (k.empty()) return result;
    std::vector<double> logits(k.size(), 0.0);
    double max = -std::numeric_limits<double>::infinity();
    for (size_t j = 0; j < k.size(); ++j) {
      for (int i = 0; i < head_dim; ++i) logits[j] += static_cast<double>(to_float(query[i])) * k[j][i];
      logits[j] *= 1.0 / std::sqrt(head_dim);
      max = std::max(max, logits[j]);
    }
    result.denominator = std::exp(sink[head] - max);
    for (size_t j = 0; j < k.size(); ++j) {
      const double p = std::exp(logits[j] - max);
      result.denominator += p;
      result.largest = std::max(result.largest, p);
      for (int i = 0; i < head_dim; ++i) result.o[i] += p * k[j][i];
    }
    for (double& value : result.o) value /= result.denominator;
    result.lse = max + std::log(result.denominator);
    return result;
  }

  // Compares `out` or `out_fp32`, and `lse`, with the formula.
  void expect_matches() const {
    for (size_t row = 0; row < step.positions.size(); ++row) {
      const std::vector<std::vector<float>> k = keys(static_cast<int>(row));
      for (int head = 0; head < num_heads; ++head) expect_head(static_cast<int>(row), head, k);
    }
  }

  void expect_head(int row, int head, const std::vector<std::vector<float>>& k) const {
    const Head formula = head_by_formula(row, head, k);
    const bool is_fp32 = output == AttentionOutput::kFp32;
    const std::vector<float> unrotated = is_fp32 ? std::vector<float>(formula.o.begin(), formula.o.end()) : test::round_all(formula.o);
    const std::vector<double> expected = test::reference_rotate(unrotated, step.positions[row], freqs, -1);

    // Sums in fp32: small absolute errors; then the roundings to bf16 of o and of the rotation.
    const size_t first = (static_cast<size_t>(row) * num_heads + head) * head_dim;
    double dot = 0.0, actual_norm = 0.0, expected_norm = 0.0;
    for (int i = 0; i < head_dim; ++i) {
      const double actual = is_fp32 ? out_fp32[first + i] : to_float(out[first + i]);
      const double rounding = is_fp32 ? 1e-6 * std::fabs(expected[i]) : 0x1p-7 * (std::fabs(expected[i]) + 0.02);
      const double slack = 1e-5 * formula.largest * 4.0 / formula.denominator + rounding;
      ASSERT_TRUE(test::close_to(actual, expected[i], slack)) << "row " << row << ", head " << head << ", dim " << i;
      dot += actual * expected[i];
      actual_norm += actual * actual;
      expected_norm += expected[i] * expected[i];
    }
    if (expected_norm > 0.0) {
      EXPECT_GT(dot / std::sqrt(actual_norm * expected_norm), is_fp32 ? 0.999998 : 0.99999) << "row " << row << ", head " << head;
    }
    if (!with_lse) return;
    const double actual_lse = lse[static_cast<size_t>(row) * num_heads + head];
    EXPECT_TRUE(test::close_to(actual_lse, formula.lse, 1e-5 + 1e-6 * std::fabs(formula.lse))) << "row " << row << ", head " << head;
  }
};

// Lists of `count` visible entries with holes and repeats.
void select_at_random(test::Random& random, Case& input, int count) {
  input.num_selected = count;
  input.selected.clear();
  for (const int position : input.step.positions) {
    const int num_visible = num_visible_entries(position, input.ratio);
    for (int i = 0; i < count; ++i) {
      const bool is_hole = i >= num_visible || random.below(5) == 0;
      input.selected.push_back(is_hole ? -1 : random.below(num_visible));
    }
  }
}

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

TEST(Attention, Fp32OutputIsNotRounded) {
  test::Random random(22);
  for (const int head_dim : {64, 128, 512}) {
    Case input(random, test::Step({{0, 700, 2}, {1, 3, 2}}, 2, 3), 2, 5, head_dim, 32, 40, 4);
    select_at_random(random, input, 24);
    input.run(AttentionOutput::kFp32);
    input.expect_matches();
    // Where nothing is rotated the bf16 output is this one, rounded.
    const std::vector<float> exact = input.out_fp32;
    input.run(AttentionOutput::kBf16);
    int num_rounded = 0;
    for (size_t i = 0; i < exact.size(); ++i) {
      if (static_cast<int>(i) % head_dim >= head_dim - kRopeDim) continue;
      ASSERT_EQ(to_float(input.out[i]), round_bf16(exact[i])) << i;
      num_rounded += round_bf16(exact[i]) != exact[i] ? 1 : 0;
    }
    EXPECT_GT(num_rounded, head_dim > kRopeDim ? 100 : -1);
  }
}

TEST(Attention, LseIsOptionalAndChangesNothing) {
  test::Random random(23);
  Case input(random, test::Step({{0, 300, 3}}, 1, 2), 1, 6, 128, 16, 20, 4);
  input.run();
  input.expect_matches();
  const std::vector<Bf16> with = input.out;
  input.with_lse = false;
  input.run();
  EXPECT_TRUE(test::same_bytes(input.out, with));
  for (const float value : input.lse) EXPECT_TRUE(std::isnan(value));
}

TEST(Attention, LseOfSinksFarFromTheLogits) {
  test::Random random(24);
  Case input(random, test::Step({{0, 300, 1}}, 1, 2), 1, 5, 128, 16, 20, 4);
  input.sink = {-std::numeric_limits<float>::infinity(), -300.0f, 60.0f, 200.0f, 5000.0f};
  input.run(AttentionOutput::kFp32);
  const std::vector<std::vector<float>> k = input.keys(0);
  for (int head = 0; head < 5; ++head) {
    const Case::Head formula = input.head_by_formula(0, head, k);
    const double expected = std::isinf(formula.lse) ? input.sink[head] : formula.lse;  // e^5000 is too large for the formula
    EXPECT_TRUE(test::close_to(input.lse[head], expected, 1e-5 + 1e-6 * std::fabs(expected))) << head;
    for (int i = 0; i < 128; ++i) ASSERT_TRUE(std::isfinite(input.out_fp32[head * 128 + i])) << head;
  }
}

// Codes and scales stand for the bf16 output: the scale by its definition, every code the nearest number.
TEST(Attention, Fp8OutputIsTheQuantisedBf16Output) {
  test::Random random(25);
  for (const int head_dim : {64, 128, 256, 512}) {
    Case input(random, test::Step({{0, 700, 2}, {1, 3, 1}}, 2, 3), 2, 3, head_dim, 32, 40, 4);
    for (Bf16& value : input.q) value = to_bf16(4.0f * to_float(value));
    select_at_random(random, input, 24);
    input.run();
    const std::vector<Bf16> bf16 = input.out;
    const std::vector<float> lse = input.lse;
    input.run(AttentionOutput::kFp8);
    EXPECT_EQ(input.lse, lse);
    const int block = std::min(head_dim, 128);
    for (size_t begin = 0; begin < bf16.size(); begin += block) {
      const std::vector<float> x = test::to_floats(bf16.data() + begin, block);
      const double scale = test::reference_scale(x.data(), block, 1e-4, 448.0);
      ASSERT_EQ(ue8m0_to_float(input.scales[begin / block]), scale) << begin;
      for (int i = 0; i < block; ++i) {
        const uint8_t code = input.codes[begin + i];
        const double distance = std::fabs(e4m3_to_float(code) * scale - x[i]);
        ASSERT_FALSE(std::isnan(distance)) << begin + i;
        for (int other = 0; other < 256; ++other) {
          if ((other & 0x7f) == 0x7f || e4m3_to_float(static_cast<uint8_t>(other)) == e4m3_to_float(code)) continue;
          const double other_distance = std::fabs(e4m3_to_float(static_cast<uint8_t>(other)) * scale - x[i]);
          ASSERT_TRUE(distance < other_distance || (distance == other_distance && code % 2 == 0)) << begin + i;
        }
      }
    }
  }
}

TEST(Attention, Fp4OutputIsTheQuantisedBf16Output) {
  test::Random random(26);
  for (const int head_dim : {64, 128, 512}) {
    Case input(random, test::Step({{0, 700, 2}, {1, 3, 1}}, 2, 3), 2, 3, head_dim, 32, 40, 4);
    select_at_random(random, input, 24);
    input.run();
    const std::vector<Bf16> bf16 = input.out;
    input.run(AttentionOutput::kFp4);
    for (size_t head = 0; head < bf16.size() / head_dim; ++head) {
      const std::vector<float> x = input.head_of(bf16, head), expected = test::reference_fp4(x);
      const std::vector<float> actual =
          test::read_fp4_values(head_dim, input.codes.data() + head * head_dim / 2, input.scales.data() + head * head_dim / 32);
      for (int i = 0; i < head_dim; ++i) ASSERT_EQ(actual[i], expected[i]) << head << ", " << i;
      for (int begin = 0; begin < head_dim; begin += 32) {
        const double scale = test::reference_scale(x.data() + begin, 32, 6.0 * 0x1p-126, 6.0);
        ASSERT_EQ(ue8m0_to_float(input.scales[(head * head_dim + begin) / 32]), scale) << head << ", " << begin;
      }
    }
  }
}

TEST(Attention, KeyCountsKeepTheLastOfTheWindowAndTheFirstEntries) {
  test::Random random(27);
  for (const bool select : {false, true}) {
    Case input(random, test::Step({{0, 700, 3}, {1, 5, 4}}, 2, 3), 2, 3, 128, 16, 20, 4);
    if (select) select_at_random(random, input, 24);
    // Each part shorter, none, longer than there is; rows 3 to 6 have 6 to 9 window positions and one or two entries.
    input.key_counts = {5, 7, 0, 9, 16, 0, 3, 1, 100, 1000000, 2, 0, 0, 1};
    for (const AttentionOutput output : {AttentionOutput::kFp32, AttentionOutput::kBf16}) {
      input.run(output);
      input.expect_matches();
    }
    // Counts of everything are the same as none.
    input.key_counts.assign(14, std::numeric_limits<int32_t>::max());
    input.run();
    const std::vector<Bf16> counted = input.out;
    input.key_counts.clear();
    input.run();
    EXPECT_TRUE(test::same_bytes(input.out, counted));
  }
}

TEST(Attention, HolesCountAsPlacesOfAList) {
  test::Random random(28);
  Case input(random, test::Step({{0, 700, 1}}, 1, 3), 1, 2, 128, 16, 20, 4);
  input.num_selected = 6;
  input.selected = {-1, 100, -1, 100, 3, 8};
  input.key_counts = {16, 4};
  input.run();
  input.expect_matches();
  const std::vector<Bf16> counted = input.out;
  input.key_counts.clear();
  input.selected = {100, 100, -1, -1, -1, -1};
  input.run();
  EXPECT_TRUE(test::same_bytes(input.out, counted));
}

TEST(Attention, NoKeysGiveZerosAndTheSink) {
  test::Random random(29);
  Case input(random, test::Step({{0, 700, 1}, {1, 90, 1}}, 2, 3), 2, 3, 128, 16, 20, 4);
  select_at_random(random, input, 8);
  std::fill(input.selected.begin(), input.selected.end(), -1);
  input.key_counts = {0, 8, 16, 8};
  for (const AttentionOutput output : {AttentionOutput::kBf16, AttentionOutput::kFp32, AttentionOutput::kFp8, AttentionOutput::kFp4}) {
    input.run(output);
    EXPECT_TRUE(std::equal(input.sink.begin(), input.sink.end(), input.lse.begin()));
    EXPECT_TRUE(input.values_are_zero(0, 3));
    EXPECT_FALSE(input.values_are_zero(3, 6));
    // The scale of a block of zeros: 2^-22 and 2^-126.
    if (output == AttentionOutput::kFp8) {
      EXPECT_EQ(input.scales[0], 127 - 22);
    } else if (output == AttentionOutput::kFp4) {
      EXPECT_EQ(input.scales[0], 1);
    }
  }
}

TEST(Attention, PaddingRowsAreZeroInEveryFormat) {
  test::Random random(30);
  test::Step step({{0, 40, 1}}, 1, 1);
  step.add_padding();
  Case input(random, step, 1, 20, 128, 16, 20, 4);
  for (const AttentionOutput output : {AttentionOutput::kBf16, AttentionOutput::kFp32, AttentionOutput::kFp8, AttentionOutput::kFp4}) {
    input.run(output);
    for (size_t i = 20; i < 40; ++i) EXPECT_EQ(input.lse[i], -std::numeric_limits<float>::infinity());
    EXPECT_TRUE(input.values_are_zero(20, 40));
    EXPECT_FALSE(input.values_are_zero(0, 20));
    if (output == AttentionOutput::kBf16 || output == AttentionOutput::kFp32) continue;
    for (size_t i = input.scales.size() / 2; i < input.scales.size(); ++i) ASSERT_EQ(input.scales[i], 0) << i;
    EXPECT_NE(input.scales[0], 0);
  }
}

TEST(Attention, RefusesCodesWithoutScales) {
  AttentionParams params{};
  params.head_dim = 128;
  params.output = AttentionOutput::kFp8;
  EXPECT_THROW(cpu::attention(params), Error);
}

}  // namespace
}  // namespace dsv4
