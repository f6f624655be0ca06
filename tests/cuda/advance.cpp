#include "ops/advance.h"

#include <gtest/gtest.h>

#include <vector>

#include "backend/cpu/ops.h"
#include "support/gpu.h"

namespace dsv4 {
namespace {

class AdvanceGpu : public test::GpuTest {};

TEST_F(AdvanceGpu, EqualsTheCpu) {
  for (const int num_rows : {0, 1, 5, 127, 128, 129, 256}) {
    const size_t count = static_cast<size_t>(num_rows);
    std::vector<int32_t> drawn(count), token_ids(count, 3), positions(count);
    std::vector<SampleRow> rows(count);
    for (size_t i = 0; i < count; ++i) {
      drawn[i] = i % 11 == 3 ? -1 : static_cast<int32_t>(1000 + i);
      positions[i] = i % 3 == 2 ? -1 : static_cast<int32_t>(i * i);
      rows[i].draw_idx = 0xfffffffeu + i;
      rows[i].seed = i;
    }
    const test::DeviceArray<int32_t> gpu_drawn(gpu(), drawn), gpu_token_ids(gpu(), token_ids), gpu_positions(gpu(), positions);
    const test::DeviceArray<SampleRow> gpu_rows(gpu(), rows);
    gpu().advance({gpu_drawn.data(), gpu_token_ids.data(), gpu_positions.data(), gpu_rows.data(), num_rows});
    cpu::advance({drawn.data(), token_ids.data(), positions.data(), rows.data(), num_rows});
    EXPECT_EQ(gpu_token_ids.host(), token_ids);
    EXPECT_EQ(gpu_positions.host(), positions);
    EXPECT_TRUE(gpu_rows.host() == rows) << num_rows;
  }
}

}  // namespace
}  // namespace dsv4
