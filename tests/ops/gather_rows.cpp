#include "ops/gather_rows.h"

#include <gtest/gtest.h>

#include <vector>

#include "backend/cpu/ops.h"
#include "support/random_data.h"

namespace dsv4 {
namespace {

TEST(GatherRows, CopiesChosenRowsInOrder) {
  test::Random random(121);
  for (const int64_t row_bytes : {1, 6, 1024}) {
    const auto x = test::random_bytes(random, static_cast<size_t>(9 * row_bytes));
    const std::vector<int32_t> rows = {8, 0, 8, 3};
    std::vector<uint8_t> out(rows.size() * static_cast<size_t>(row_bytes) + 4, 0xee);
    cpu::gather_rows({x.data(), rows.data(), out.data(), static_cast<int>(rows.size()), row_bytes});
    for (size_t i = 0; i < rows.size() * static_cast<size_t>(row_bytes); ++i) {
      const size_t row = i / static_cast<size_t>(row_bytes), byte = i % static_cast<size_t>(row_bytes);
      ASSERT_EQ(out[i], x[static_cast<size_t>(rows[row] * row_bytes) + byte]) << i;
    }
    for (size_t i = out.size() - 4; i < out.size(); ++i) EXPECT_EQ(out[i], 0xee);
  }
}

TEST(GatherRows, NoRows) {
  cpu::gather_rows({nullptr, nullptr, nullptr, 0, 16});
}

}  // namespace
}  // namespace dsv4
