#include "ops/index_scores.h"

#include <gtest/gtest.h>

#include "backend/cpu/kv_codec.h"
#include "backend/cpu/ops.h"
#include "base/error.h"
#include "support/compare.h"
#include "support/random_data.h"
#include "support/reference.h"
#include "support/step.h"

namespace dsv4 {
namespace {

constexpr int kRatio = 4;
constexpr uint16_t kUntouched = 0x7fc1;

struct Case {
  test::Step step;
  int num_heads, dim, entries_per_page, topk;
  int row_begin = 0, row_end;
  int64_t stride = 0;
  std::vector<uint8_t> codes, scales, pages;
  std::vector<Bf16> weights, scores;

  Case(test::Random& random, const test::Step& s, int num_slots, int heads, int index_head_dim, int k,
       int per_page = kPagePositions / kRatio)
      : step(s), num_heads(heads), dim(index_head_dim), entries_per_page(per_page), topk(k), row_end(static_cast<int>(s.positions.size())) {
    const size_t num_queries = step.positions.size() * num_heads;
    codes = test::random_bytes(random, num_queries * dim / 2);
    scales = test::random_ue8m0(random, num_queries * dim / 32, -6, 2);
    weights = test::random_bf16(random, num_queries);
    pages.resize(static_cast<size_t>(num_slots) * step.pages_per_slot * IndexEntryLayout{dim}.page_bytes(entries_per_page));
    for (int page = 0; page < num_slots * step.pages_per_slot; ++page) {
      for (int entry = 0; entry < entries_per_page; ++entry) {
        const cpu::EntryBytes bytes = cpu::entry_bytes(IndexEntryLayout{dim}, pages.data(), page, entries_per_page, entry);
        const std::vector<uint8_t> values = test::random_bytes(random, dim / 2), entry_scales = test::random_ue8m0(random, dim / 32, -9, 3);
        std::copy(values.begin(), values.end(), bytes.values);
        std::copy(entry_scales.begin(), entry_scales.end(), bytes.scales);
      }
    }
    for (const int position : step.positions) stride = std::max<int64_t>(stride, num_visible_entries(position, kRatio) + 3);
  }

  void run() {
    scores.assign((row_end - row_begin) * stride, Bf16{kUntouched});
    cpu::index_scores({codes.data(),
                       scales.data(),
                       weights.data(),
                       step.view(),
                       {pages.data(), entries_per_page},
                       scores.data(),
                       stride,
                       row_begin,
                       row_end,
                       num_heads,
                       dim,
                       kRatio,
                       topk});
  }

  Bf16 score(int row, int entry) const { return scores[(row - row_begin) * stride + entry]; }

  // The dot in double (exact for these operands), then the roundings of the reference and an fp32 head sum.
  Bf16 reference(int row, int entry) const {
    const int page = step.page_table[step.seq_idx[row] * step.pages_per_slot + entry / entries_per_page];
    const size_t page_bytes = static_cast<size_t>(entries_per_page) * (dim / 2 + dim / 32);
    const std::vector<float> key = test::read_fp4_entry(dim, pages.data() + page * page_bytes, entries_per_page, entry % entries_per_page);
    float sum = 0.0f;
    for (int head = 0; head < num_heads; ++head) {
      const size_t query_idx = static_cast<size_t>(row) * num_heads + head;
      const std::vector<float> query = test::read_fp4_values(dim, &codes[query_idx * dim / 2], &scales[query_idx * dim / 32]);
      double dot = 0.0;
      for (int i = 0; i < dim; ++i) dot += static_cast<double>(query[i]) * key[i];
      const float positive = std::max(round_bf16(static_cast<float>(dot)), 0.0f);
      sum += round_bf16(positive * to_float(weights[query_idx]));
    }
    return to_bf16(sum);
  }

  void expect_matches() {
    for (int row = row_begin; row < row_end; ++row) {
      const int num_visible = num_visible_entries(step.positions[row], kRatio);
      for (int entry = 0; entry < stride; ++entry) {
        const uint16_t expected = num_visible > topk && entry < num_visible ? reference(row, entry).bits : kUntouched;
        ASSERT_EQ(score(row, entry).bits, expected) << "row " << row << ", entry " << entry;
      }
    }
  }
};

TEST(IndexScores, MatchesTheSteps) {
  test::Random random(1);
  for (const int dim : {32, 64, 128, 160}) {
    for (const int num_heads : {1, 3, 4, 9}) {
      // Two sequences: one far enough for scores, across pages and tiles, one that starts.
      Case input(random, test::Step({{1, 795, 3}, {0, 0, 5}}, 2, 4), 2, num_heads, dim, 16);
      input.run();
      input.expect_matches();
    }
  }
}

TEST(IndexScores, NegativeWeightsGiveNegativeScores) {
  test::Random random(2);
  Case input(random, test::Step({{0, 400, 1}}, 1, 2), 1, 4, 128, 8);
  for (Bf16& weight : input.weights) weight.bits |= 0x8000u;
  input.run();
  input.expect_matches();
  int num_negative = 0;
  for (int entry = 0; entry < 100; ++entry) num_negative += to_float(input.score(0, entry)) < 0.0f ? 1 : 0;
  EXPECT_GT(num_negative, 50);
}

TEST(IndexScores, LargestSumsDoNotOverflow) {
  // 32 products of 6·6 in every block: the largest integers that the products can reach, of either sign.
  test::Random random(3);
  Case input(random, test::Step({{0, 299, 1}}, 1, 2), 1, 2, 128, 8);
  std::fill(input.codes.begin(), input.codes.begin() + 64, uint8_t{0x77});
  std::fill(input.codes.begin() + 64, input.codes.end(), uint8_t{0xff});
  for (int entry = 0; entry < 64; ++entry) {
    const cpu::EntryBytes bytes = cpu::entry_bytes(IndexEntryLayout{128}, input.pages.data(), input.step.page_table[0], 64, entry);
    std::fill_n(bytes.values, 64, entry % 2 == 0 ? uint8_t{0x77} : uint8_t{0xff});
    std::fill_n(bytes.scales, 4, uint8_t{127});
  }
  std::fill(input.scales.begin(), input.scales.end(), uint8_t{127});
  std::fill(input.weights.begin(), input.weights.end(), to_bf16(1.0f));
  input.run();
  input.expect_matches();
  for (int entry = 0; entry < 64; ++entry) EXPECT_EQ(to_float(input.score(0, entry)), 4608.0f);
}

TEST(IndexScores, RowsThatTakeEverythingAreSkipped) {
  test::Random random(4);
  // 16 visible entries at position 63, 17 at 67.
  Case input(random, test::Step({{0, 60, 10}}, 1, 1), 1, 4, 128, 16);
  input.run();
  input.expect_matches();
  EXPECT_EQ(input.score(6, 0).bits, kUntouched);
  EXPECT_NE(input.score(7, 0).bits, kUntouched);
}

TEST(IndexScores, NoEntriesYet) {
  test::Random random(5);
  Case input(random, test::Step({{0, 0, 3}}, 1, 1), 1, 4, 128, 0);
  input.run();
  input.expect_matches();
}

TEST(IndexScores, PagesOfAnySizeGiveTheSameScores) {
  test::Random random(6);
  for (const int per_page : {1, 7, 256}) {
    Case input(random, test::Step({{0, 330, 20}}, 1, 100), 1, 4, 64, 5, per_page);
    input.run();
    input.expect_matches();
  }
}

TEST(IndexScores, RowsAloneGiveTheSameBytes) {
  test::Random random(7);
  Case together(random, test::Step({{0, 2700, 40}, {1, 1000, 21}}, 2, 11), 2, 4, 128, 64);
  together.run();
  for (int row = 0; row < together.row_end; row += 3) {
    Case alone = together;
    alone.row_begin = row;
    alone.row_end = row + 1;
    alone.run();
    EXPECT_TRUE(test::same_bytes(std::span<const Bf16>(alone.scores),
                                 std::span<const Bf16>(together.scores).subspan(row * together.stride, together.stride)))
        << "row " << row;
  }
}

TEST(IndexScores, RefusesOddDims) {
  IndexScoresParams params{};
  params.index_head_dim = 100;
  EXPECT_THROW(cpu::index_scores(params), Error);
}

TEST(IndexScores, PaddingRowsGetNoScores) {
  test::Random random(22);
  test::Step step({{1, 799, 1}}, 2, 4);
  step.add_padding();
  Case input(random, step, 2, 4, 64, 16);
  input.run();
  input.expect_matches();
}

}  // namespace
}  // namespace dsv4
