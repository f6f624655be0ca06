#include "model/step.h"

#include <gtest/gtest.h>

#include "backend/cpu/backend.h"
#include "base/error.h"

namespace dsv4 {
namespace {

std::vector<int32_t> copied(const int32_t* values, size_t count) {
  return {values, values + count};
}

TEST(Step, UploadsARaggedBatch) {
  const auto backend = make_cpu_backend();
  DeviceStep device(*backend, 16, 3, 4);
  StepInput step;
  const std::vector<int32_t> first{11, 12, 13}, second{21}, first_pages{5, 9}, second_pages{7, 2, 3};
  step.add_sequence(2, 254, first, first_pages);
  step.add_sequence(0, 511, second, second_pages);
  const BatchView view = device.upload(step);
  ASSERT_EQ(view.num_tokens, 4);
  ASSERT_EQ(view.num_seqs, 2);
  EXPECT_EQ(copied(view.token_ids, 4), (std::vector<int32_t>{11, 12, 13, 21}));
  EXPECT_EQ(copied(view.positions, 4), (std::vector<int32_t>{254, 255, 256, 511}));
  EXPECT_EQ(copied(view.seq_idx, 4), (std::vector<int32_t>{0, 0, 0, 1}));
  EXPECT_EQ(copied(view.row_begin, 3), (std::vector<int32_t>{0, 3, 4}));
  EXPECT_EQ(copied(view.slots, 2), (std::vector<int32_t>{2, 0}));
  // Position 511 is the last of the second page: the third is not needed and not uploaded.
  ASSERT_EQ(view.page_table_stride, 2);
  EXPECT_EQ(copied(view.page_table, 4), (std::vector<int32_t>{5, 9, 7, 2}));
  EXPECT_EQ(step.last_row(0), 2);
  EXPECT_EQ(step.last_row(1), 3);
}

TEST(Step, RefusesWhatDoesNotFit) {
  const auto backend = make_cpu_backend();
  DeviceStep device(*backend, 2, 1, 1);
  StepInput step;
  const std::vector<int32_t> tokens{1, 2, 3}, pages{0};
  step.add_sequence(0, 0, tokens, pages);
  EXPECT_THROW(device.upload(step), Error);
  step.clear();
  EXPECT_EQ(step.num_tokens(), 0);
  EXPECT_EQ(step.num_seqs(), 0);
  EXPECT_THROW(step.add_sequence(0, 255, tokens, pages), Error) << "position 256 needs a second page";
}

}  // namespace
}  // namespace dsv4
