#include "ops/gather_rows.h"

#include "backend/cpu/ops.h"
#include "cuda/support/gpu.h"
#include "support/compare.h"
#include "support/random_data.h"

namespace dsv4 {
namespace {

using test::DeviceArray;

class GatherRowsGpu : public test::GpuTest {
 protected:
  // Rows of `row_bytes` from 7 into 6; an empty list stands for none.
  static void expect_like_cpu(int64_t row_bytes, const std::vector<int32_t>& rows, const std::vector<int32_t>& out_rows, int num_rows) {
    test::Random random(static_cast<uint64_t>(row_bytes));
    const std::vector<uint8_t> x = test::random_bytes(random, static_cast<size_t>(7 * row_bytes));
    const DeviceArray<uint8_t> gpu_x(gpu(), x), out(gpu(), static_cast<size_t>(6 * row_bytes));
    const DeviceArray<int32_t> gpu_rows(gpu(), rows), gpu_out_rows(gpu(), out_rows);
    std::vector<uint8_t> expected = out.host();
    gpu().gather_rows({gpu_x.data(), rows.empty() ? nullptr : gpu_rows.data(), out.data(), num_rows, row_bytes,
                       out_rows.empty() ? nullptr : gpu_out_rows.data()});
    cpu::gather_rows({x.data(), rows.empty() ? nullptr : rows.data(), expected.data(), num_rows, row_bytes,
                      out_rows.empty() ? nullptr : out_rows.data()});
    EXPECT_TRUE(test::same_bytes(out.host(), expected)) << "rows of " << row_bytes << " bytes";
  }
};

TEST_F(GatherRowsGpu, EqualsTheCpuBitForBit) {
  // Whole and broken 16-byte units; rows shorter and longer than one CTA covers; the logits of the real vocabulary.
  for (const int64_t row_bytes : {1, 2, 15, 16, 48, 1000, 4036, 8192, 8208, 57344, 129280 * 4}) {
    expect_like_cpu(row_bytes, {6, 0, 3, 3}, {}, 4);
    expect_like_cpu(row_bytes, {}, {5, 1}, 2);
    expect_like_cpu(row_bytes, {4, 2, 0}, {0, 5, 3}, 3);
    expect_like_cpu(row_bytes, {}, {}, 6);
  }
}

TEST_F(GatherRowsGpu, NegativeIndicesAreSkipped) {
  for (const int64_t row_bytes : {10, 256}) {
    expect_like_cpu(row_bytes, {1, -1, 2}, {}, 3);
    expect_like_cpu(row_bytes, {1, 2, 3}, {-1, 4, 0}, 3);
    expect_like_cpu(row_bytes, {-1, 2, -5}, {2, -1, -1}, 3);
  }
}

TEST_F(GatherRowsGpu, NoRowsNothingToDo) {
  expect_like_cpu(64, {1}, {2}, 0);
}

}  // namespace
}  // namespace dsv4
