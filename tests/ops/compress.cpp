#include "ops/compress.h"

#include <gtest/gtest.h>

#include "backend/cpu/ops.h"
#include "base/error.h"
#include "support/compare.h"
#include "support/random_data.h"
#include "support/reference.h"
#include "support/step.h"

namespace dsv4 {
namespace {

constexpr float kEps = 1e-6f;

// One layer's compressor with its state and pages, for several sequences whose a and gate rows are known at every position.
struct Layer {
  int ratio, dim, state_tokens, num_slots, pages_per_slot;
  EntryFormat format;
  std::vector<float> ape, freqs = test::plain_frequencies();
  std::vector<Bf16> weight;
  std::vector<std::vector<float>> a, gate;  // [slot] → [position, width]
  std::vector<float> state;
  std::vector<uint8_t> pages;

  Layer(int r, int d, EntryFormat f, int num_positions, int slots = 1, int spare_state = 0)
      : ratio(r),
        dim(d),
        state_tokens((r == 4 ? 8 : r) + spare_state),
        num_slots(slots),
        pages_per_slot(num_positions / kPagePositions + 1),
        format(f) {
    test::Random random(static_cast<uint64_t>(r * 1000 + d));
    ape = test::random_floats(random, static_cast<size_t>(ratio) * width());
    weight = test::random_bf16(random, dim);
    for (int slot = 0; slot < num_slots; ++slot) {
      a.push_back(test::random_floats(random, static_cast<size_t>(num_positions) * width()));
      gate.push_back(test::random_floats(random, static_cast<size_t>(num_positions) * width(), 2.0f));
    }
    // What a new sequence finds must not matter: NaN would show in any result.
    state.assign(static_cast<size_t>(num_slots) * 2 * state_tokens * width(), std::numeric_limits<float>::quiet_NaN());
    pages.assign(num_slots * pages_per_slot * page_bytes(), 0xee);
  }

  int width() const { return ratio == 4 ? 2 * dim : dim; }
  int entries_per_page() const { return kPagePositions / ratio; }
  size_t page_bytes() const {
    return format == EntryFormat::kFp8 ? KvEntryLayout{dim}.page_bytes(entries_per_page())
                                       : IndexEntryLayout{dim}.page_bytes(entries_per_page());
  }

  void run(const std::vector<test::SequenceRows>& sequences, int num_padding = 0) {
    test::Step step(sequences, num_slots, pages_per_slot);
    std::vector<float> kv, gates;
    for (const test::SequenceRows& rows : sequences) {
      const ptrdiff_t begin = static_cast<ptrdiff_t>(rows.first_position) * width();
      const ptrdiff_t end = begin + static_cast<ptrdiff_t>(rows.num_rows) * width();
      kv.insert(kv.end(), a[rows.slot].begin() + begin, a[rows.slot].begin() + end);
      gates.insert(gates.end(), gate[rows.slot].begin() + begin, gate[rows.slot].begin() + end);
    }
    for (int i = 0; i < num_padding; ++i) {
      step.add_padding();
      kv.resize(kv.size() + static_cast<size_t>(width()), 1.0f);
      gates.resize(kv.size(), 1.0f);
    }
    cpu::compress({kv.data(),
                   gates.data(),
                   ape.data(),
                   weight.data(),
                   freqs.data(),
                   step.view(),
                   state.data(),
                   {pages.data(), entries_per_page()},
                   format,
                   ratio,
                   dim,
                   state_tokens,
                   kEps});
  }

  const uint8_t* page_of(int slot, int entry) const {
    return pages.data() + test::physical_page(slot, entry / entries_per_page(), num_slots, pages_per_slot) * page_bytes();
  }
  std::vector<float> read(int slot, int entry) const {
    const uint8_t* page = page_of(slot, entry);
    return format == EntryFormat::kFp8 ? test::read_fp8_entry(dim, page, entries_per_page(), entry % entries_per_page())
                                       : test::read_fp4_entry(dim, page, entries_per_page(), entry % entries_per_page());
  }

  // The entry by the definition: softmax over the slots of every channel in double, then the roundings of the spec.
  std::vector<float> reference(int slot, int entry) const {
    struct Token {
      int position, channel;
    };
    std::vector<Token> tokens;
    for (int i = 0; ratio == 4 && entry > 0 && i < 4; ++i) tokens.push_back({4 * (entry - 1) + i, 0});
    for (int i = 0; i < ratio; ++i) tokens.push_back({ratio * entry + i, ratio == 4 ? dim : 0});
    std::vector<float> e(dim);
    for (int i = 0; i < dim; ++i) {
      double weighted = 0.0, sum = 0.0;
      for (const Token& token : tokens) {
        const size_t idx = static_cast<size_t>(token.position) * width() + token.channel + i;
        const double w = std::exp(static_cast<double>(gate[slot][idx] + ape[(token.position % ratio) * width() + token.channel + i]));
        weighted += w * a[slot][idx];
        sum += w;
      }
      e[i] = round_bf16(static_cast<float>(weighted / sum));
    }
    const auto normed = test::round_all(test::reference_rms(e, weight.data(), kEps));
    const auto rotated = test::round_all(test::reference_rotate(normed, ratio * entry, freqs));
    if (format == EntryFormat::kFp8) return test::reference_fp8_entry(rotated);
    return test::reference_fp4(test::round_all(test::reference_hadamard(rotated)));
  }

  // A bf16 rounding that falls on the other side may move a value by a step: rare, and no more than a step.
  void expect_entries(int slot, int num_entries) const {
    int different = 0;
    for (int entry = 0; entry < num_entries; ++entry) {
      const std::vector<float> actual = read(slot, entry), expected = reference(slot, entry);
      different += test::num_different(actual, expected);
      for (int i = 0; i < dim; ++i) {
        const double step = format == EntryFormat::kFp8 ? 0.13 * std::fabs(expected[i]) + 0.01 : 2.0;
        ASSERT_TRUE(test::close_to(actual[i], expected[i], step)) << "entry " << entry << ", dim " << i;
      }
    }
    EXPECT_LE(different, 1 + num_entries * dim / 200) << "slot " << slot;
  }

  // No byte of the entries from `num_entries` on has been written.
  void expect_untouched_from(int slot, int num_entries) const {
    for (int entry = num_entries; entry < pages_per_slot * entries_per_page(); ++entry) {
      const uint8_t* page = page_of(slot, entry);
      const int idx = entry % entries_per_page();
      const size_t value_bytes = format == EntryFormat::kFp8 ? KvEntryLayout{dim}.value_bytes() : IndexEntryLayout{dim}.value_bytes();
      for (size_t i = 0; i < value_bytes; ++i) ASSERT_EQ(page[idx * value_bytes + i], 0xee) << "entry " << entry;
    }
  }
};

TEST(Compress, Ratio4MainEntries) {
  for (const int dim : {64, 128, 256, 512}) {
    Layer layer(4, dim, EntryFormat::kFp8, 30);
    layer.run({{0, 0, 30}});  // 7 entries, 2 tokens left over
    layer.expect_entries(0, 7);
    layer.expect_untouched_from(0, 7);
  }
}

TEST(Compress, Ratio4IndexerEntries) {
  for (const int dim : {64, 128}) {
    Layer layer(4, dim, EntryFormat::kFp4Hadamard, 300);
    layer.run({{0, 0, 300}});
    layer.expect_entries(0, 75);
    layer.expect_untouched_from(0, 75);
  }
}

TEST(Compress, Ratio128Entries) {
  for (const int dim : {64, 512}) {
    Layer layer(128, dim, EntryFormat::kFp8, 390);
    layer.run({{0, 0, 390}});
    layer.expect_entries(0, 3);
    layer.expect_untouched_from(0, 3);
  }
}

TEST(Compress, ExactBlocksAndIncompleteOnes) {
  Layer four(4, 64, EntryFormat::kFp8, 8);
  four.run({{0, 0, 3}});
  four.expect_untouched_from(0, 0);
  four.run({{0, 3, 1}});
  four.expect_entries(0, 1);
  four.expect_untouched_from(0, 1);

  Layer exact(4, 64, EntryFormat::kFp8, 4);
  exact.run({{0, 0, 4}});
  exact.expect_entries(0, 1);

  Layer heavy(128, 64, EntryFormat::kFp8, 128);
  heavy.run({{0, 0, 127}});
  heavy.expect_untouched_from(0, 0);
  heavy.run({{0, 127, 1}});
  heavy.expect_entries(0, 1);
  heavy.expect_untouched_from(0, 1);
}

TEST(Compress, ApeBelongsToTheGate) {
  // Equal gates and values: whatever ape is, the softmax returns the value; an ape added to values would show.
  Layer layer(4, 64, EntryFormat::kFp8, 4);
  std::fill(layer.a[0].begin(), layer.a[0].end(), 1.0f);
  std::fill(layer.weight.begin(), layer.weight.end(), to_bf16(1.0f));
  layer.run({{0, 0, 4}});
  std::vector<float> expected(64, 1.0f);  // of norm 1 already; at position 0 nothing is rotated
  EXPECT_EQ(layer.read(0, 0), expected);
}

TEST(Compress, LargeGatesDoNotOverflow) {
  Layer layer(128, 64, EntryFormat::kFp8, 128);
  for (float& value : layer.gate[0]) value = 500.0f + value;
  layer.run({{0, 0, 128}});
  for (const float value : layer.read(0, 0)) EXPECT_TRUE(std::isfinite(value));
  for (float& value : layer.gate[0]) value -= 500.0f;
  layer.expect_entries(0, 1);
}

TEST(Compress, AnyCutGivesTheSameBytes) {
  const std::vector<std::vector<int>> cuts = {{1}, {2, 1}, {3, 5}, {4}, {7, 1, 1}, {64, 1, 100}, {129, 127}, {300}};
  for (const auto& [ratio, dim, format] :
       {std::tuple{4, 128, EntryFormat::kFp8}, {4, 64, EntryFormat::kFp4Hadamard}, {128, 64, EntryFormat::kFp8}}) {
    constexpr int kPositions = 600;
    Layer whole(ratio, dim, format, kPositions);
    whole.run({{0, 0, kPositions}});
    for (const std::vector<int>& cut : cuts) {
      Layer layer(ratio, dim, format, kPositions);
      int position = 0;
      for (size_t i = 0; position < kPositions; ++i) {
        const int rows = std::min(cut[i % cut.size()], kPositions - position);
        layer.run({{0, position, rows}});
        position += rows;
      }
      EXPECT_TRUE(test::same_bytes(layer.pages, whole.pages)) << "ratio " << ratio << ", first chunk " << cut[0];
      EXPECT_TRUE(test::same_bytes(layer.state, whole.state)) << "ratio " << ratio << ", first chunk " << cut[0];
    }
  }
}

TEST(Compress, SequencesOfABatchDoNotMix) {
  for (const int ratio : {4, 128}) {
    Layer together(ratio, 64, EntryFormat::kFp8, 400, 3), apart(ratio, 64, EntryFormat::kFp8, 400, 3);
    together.run({{2, 0, 130}, {0, 0, 6}});
    together.run({{1, 0, 257}, {0, 6, 1}, {2, 130, 270}});
    together.run({{0, 7, 249}, {1, 257, 1}});
    apart.run({{0, 0, 256}});
    apart.run({{1, 0, 258}});
    apart.run({{2, 0, 400}});
    EXPECT_TRUE(test::same_bytes(together.pages, apart.pages));
    EXPECT_TRUE(test::same_bytes(together.state, apart.state));
    for (int slot = 0; slot < 3; ++slot) apart.expect_entries(slot, 256 / ratio);
  }
}

TEST(Compress, ASlotIsReusedWithoutAReset) {
  Layer used(4, 64, EntryFormat::kFp8, 40, 1), fresh(4, 64, EntryFormat::kFp8, 40, 1);
  used.run({{0, 0, 39}});
  std::fill(used.pages.begin(), used.pages.end(), uint8_t{0xee});
  for (int position = 0; position < 9; ++position) used.run({{0, position, 1}});
  fresh.run({{0, 0, 9}});
  EXPECT_TRUE(test::same_bytes(used.pages, fresh.pages));
}

TEST(Compress, ASpareStateAllowsARollback) {
  for (const int ratio : {4, 128}) {
    Layer layer(ratio, 64, EntryFormat::kFp8, 300, 1, 8), straight(ratio, 64, EntryFormat::kFp8, 300, 1, 8);
    layer.run({{0, 0, 253}});
    const std::vector<float> accepted = layer.a[0];
    for (float& value : layer.a[0]) value = -value;
    layer.run({{0, 253, 5}});  // rejected: positions 253 to 257 are decoded again with other values
    layer.a[0] = accepted;
    layer.run({{0, 253, 1}});
    layer.run({{0, 254, 46}});
    straight.run({{0, 0, 300}});
    EXPECT_TRUE(test::same_bytes(layer.pages, straight.pages)) << "ratio " << ratio;
  }
}

TEST(Compress, RefusesWhatItCannotDo) {
  Layer layer(4, 64, EntryFormat::kFp8, 8);
  layer.ratio = 8;
  EXPECT_THROW(layer.run({{0, 0, 1}}), Error);
  Layer small(4, 64, EntryFormat::kFp8, 8);
  small.state_tokens = 7;
  EXPECT_THROW(small.run({{0, 0, 1}}), Error);
}

TEST(Compress, PaddingRowsTouchNothing) {
  for (const int ratio : {4, 128}) {
    Layer padded(ratio, 64, EntryFormat::kFp8, 300, 2), alone(ratio, 64, EntryFormat::kFp8, 300, 2);
    for (Layer* layer : {&padded, &alone}) layer->run({{1, 0, ratio - 1}});
    padded.run({{1, ratio - 1, 1}}, 3);  // completes a block
    alone.run({{1, ratio - 1, 1}});
    EXPECT_TRUE(test::same_bytes(padded.pages, alone.pages));
    EXPECT_TRUE(test::same_bytes(padded.state, alone.state));
    padded.run({}, 2);
    EXPECT_TRUE(test::same_bytes(padded.pages, alone.pages));
    EXPECT_TRUE(test::same_bytes(padded.state, alone.state));
  }
}

}  // namespace
}  // namespace dsv4
