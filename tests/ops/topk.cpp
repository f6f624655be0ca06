#include "ops/topk.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "backend/cpu/ops.h"
#include "ops/batch.h"
#include "support/compare.h"
#include "support/random_data.h"

namespace dsv4 {
namespace {

std::vector<int32_t> reference(const Bf16* scores, int num_visible, int k) {
  std::vector<int32_t> order(num_visible);
  std::iota(order.begin(), order.end(), 0);
  if (num_visible > k) {
    std::reverse(order.begin(), order.end());  // later entries win ties
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return to_float(scores[a]) > to_float(scores[b]); });
    order.resize(k);
    std::sort(order.begin(), order.end());
  }
  order.resize(k, -1);
  return order;
}

// Selects from one row with `scores.size()` visible entries.
std::vector<int32_t> select(const std::vector<Bf16>& scores, int k) {
  const int32_t position = static_cast<int32_t>(scores.size()) * 4 - 1;
  std::vector<int32_t> selected(k, 12345);
  cpu::topk({scores.data(), &position, selected.data(), static_cast<int64_t>(scores.size()), 0, 1, 4, k});
  return selected;
}

std::vector<Bf16> scores_of(std::initializer_list<float> values) {
  std::vector<Bf16> scores;
  for (const float value : values) scores.push_back(to_bf16(value));
  return scores;
}

TEST(Topk, TakesTheLargestInEntryOrder) {
  EXPECT_EQ(select(scores_of({1, 5, -3, 4, 2}), 2), (std::vector<int32_t>{1, 3}));
  EXPECT_EQ(select(scores_of({-1, -5, -3, -4, -2}), 2), (std::vector<int32_t>{0, 4}));
}

TEST(Topk, TiesGoToTheLaterEntry) {
  EXPECT_EQ(select(scores_of({2, 7, 2, 2, 7, 2}), 3), (std::vector<int32_t>{1, 4, 5}));
  EXPECT_EQ(select(scores_of({0, 0, 0, 0}), 2), (std::vector<int32_t>{2, 3}));
}

TEST(Topk, NegativeZeroTiesWithZero) {
  EXPECT_EQ(select(scores_of({-1.0f, -0.0f, 0.0f, -0.0f}), 1), (std::vector<int32_t>{3}));
  EXPECT_EQ(select(scores_of({-1.0f, 0.0f, -0.0f, 0.0f}), 2), (std::vector<int32_t>{2, 3}));
}

TEST(Topk, InfinitiesAndExtremes) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(select(scores_of({1, infinity, -infinity, 3e38f, -3e38f, 1e-40f}), 3), (std::vector<int32_t>{0, 1, 3}));
  EXPECT_EQ(select(scores_of({-infinity, -infinity, -3e38f}), 2), (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(select(scores_of({infinity, infinity, infinity}), 2), (std::vector<int32_t>{1, 2}));
}

TEST(Topk, FewVisibleEntriesAreAllTakenWithoutScores) {
  const std::vector<int32_t> positions = {0, 2, 3, 15, 16, 31};  // 0, 0, 1, 4, 4, 8 visible
  std::vector<int32_t> selected(positions.size() * 8, 12345);
  cpu::topk({nullptr, positions.data(), selected.data(), 8, 0, 6, 4, 8});
  for (size_t row = 0; row < positions.size(); ++row) {
    const int visible = (positions[row] + 1) / 4;
    for (int i = 0; i < 8; ++i) EXPECT_EQ(selected[row * 8 + i], i < visible ? i : -1) << "row " << row << ", " << i;
  }
}

TEST(Topk, MatchesASort) {
  test::Random random(1);
  for (const auto& [visible, k] : {std::pair{65, 64}, {200, 1}, {1000, 64}, {8192, 128}, {40000, 512}}) {
    for (const float stddev : {0.01f, 100.0f}) {
      std::vector<Bf16> scores = test::random_bf16(random, visible, stddev);
      // Coarse scores: many ties, at the threshold too.
      std::vector<Bf16> coarse(scores.size());
      for (int i = 0; i < visible; ++i) coarse[i] = to_bf16(static_cast<float>(random.below(5) - 2));
      EXPECT_EQ(select(scores, k), reference(scores.data(), visible, k)) << visible << " " << k;
      EXPECT_EQ(select(coarse, k), reference(coarse.data(), visible, k)) << visible << " " << k;
    }
  }
}

TEST(Topk, WritesOnlyItsRows) {
  test::Random random(2);
  const int num_tokens = 10, row_begin = 3, row_end = 8, k = 4, stride = 50;
  std::vector<int32_t> positions(num_tokens);
  for (int i = 0; i < num_tokens; ++i) positions[i] = i < 5 ? 100 + i : 5 * i;
  const std::vector<Bf16> scores = test::random_bf16(random, (row_end - row_begin) * stride);
  std::vector<int32_t> selected(num_tokens * k, 12345);
  cpu::topk({scores.data(), positions.data(), selected.data(), stride, row_begin, row_end, 4, k});
  for (int row = 0; row < num_tokens; ++row) {
    const std::vector<int32_t> actual(selected.begin() + row * k, selected.begin() + (row + 1) * k);
    if (row < row_begin || row >= row_end) {
      EXPECT_EQ(actual, std::vector<int32_t>(k, 12345));
    } else {
      EXPECT_EQ(actual, reference(scores.data() + (row - row_begin) * stride, num_visible_entries(positions[row], 4), k)) << "row " << row;
    }
  }
}

TEST(Topk, PaddingRowsSelectNothing) {
  const std::vector<Bf16> scores(30);
  const std::vector<int32_t> positions = {-1, -1000, 5};
  std::vector<int32_t> selected(9, 12345);
  cpu::topk({scores.data(), positions.data(), selected.data(), 10, 0, 3, 4, 3});
  EXPECT_EQ(selected, (std::vector<int32_t>{-1, -1, -1, -1, -1, -1, 0, -1, -1}));
}

}  // namespace
}  // namespace dsv4
