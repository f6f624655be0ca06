#include "ops/advance.h"

#include <gtest/gtest.h>

#include <vector>

#include "backend/cpu/ops.h"

namespace dsv4 {
namespace {

TEST(Advance, FeedsTheDrawnTokensAndSkipsPadding) {
  const std::vector<int32_t> drawn = {7, 8, -1, 9};
  std::vector<int32_t> token_ids = {1, 2, 3, 4}, positions = {0, -1, 5, 262143};
  std::vector<SampleRow> rows(4);
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i].draw_idx = 10 * i;
    rows[i].seed = i;
    rows[i].temperature = 0.5f;
  }
  rows[3].draw_idx = 0xffffffffu;
  const std::vector<SampleRow> before = rows;
  cpu::advance({drawn.data(), token_ids.data(), positions.data(), rows.data(), 4});
  EXPECT_EQ(token_ids, (std::vector<int32_t>{7, 2, 0, 9}));
  EXPECT_EQ(positions, (std::vector<int32_t>{1, -1, 6, 262144}));
  const std::vector<uint64_t> draw_idx = {1, 10, 21, 0x100000000u};
  for (size_t i = 0; i < rows.size(); ++i) {
    SampleRow expected = before[i];
    expected.draw_idx = draw_idx[i];
    EXPECT_TRUE(rows[i] == expected) << i;
  }
}

TEST(Advance, NoRows) {
  cpu::advance({nullptr, nullptr, nullptr, nullptr, 0});
}

}  // namespace
}  // namespace dsv4
