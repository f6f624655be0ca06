#include "runtime/capacity.h"

#include <gtest/gtest.h>

#include "support/error_of.h"

namespace dsv4 {
namespace {

constexpr int64_t kGib = int64_t{1} << 30;

class Capacity : public ::testing::Test {
 protected:
  MemoryPlan plan(int64_t context, int64_t free_bytes) const {
    MemoryRequest request;
    request.context = context;
    request.num_seqs = 4;
    return plan_device(config_, specs_, request, free_bytes);
  }

  ModelConfig config_ = load_config(DSV4_SOURCE_DIR "/models/configs/flash.json");
  std::vector<TensorSpec> specs_ = tensor_specs(config_, false);
};

TEST_F(Capacity, UnlimitedMemoryTakesTheWholeContext) {
  EXPECT_EQ(plan(0, 0).request.context, config_.max_position_embeddings);
}

TEST_F(Capacity, EnoughMemoryTakesTheWholeContext) {
  EXPECT_EQ(plan(0, 400 * kGib).request.context, config_.max_position_embeddings);
  EXPECT_EQ(plan(5000, 400 * kGib).request.context, 5000);
}

TEST_F(Capacity, TheDefaultContextIsTheLongestThatFits) {
  const int64_t free_bytes = 155 * kGib;
  const MemoryPlan chosen = plan(0, free_bytes);
  EXPECT_TRUE(chosen.fits());
  EXPECT_LT(chosen.needed(), free_bytes - kGib);
  EXPECT_LT(chosen.request.context, config_.max_position_embeddings);
  EXPECT_EQ(chosen.request.context % 256, 0);
  EXPECT_NO_THROW(plan(chosen.request.context, free_bytes));
  EXPECT_THROW(plan(chosen.request.context + 1, free_bytes), Error);
}

TEST_F(Capacity, AContextThatWasAskedForIsNotCut) {
  const std::string line = test::error_of([&] { plan(1048576, 155 * kGib); });
  EXPECT_EQ(line.rfind("the model does not fit on the device: needs ", 0), 0u) << line;
  EXPECT_NE(line.find("what would fit: a context of "), std::string::npos) << line;
}

TEST_F(Capacity, WeightsThatDoNotFitAreRefused) {
  for (int64_t free_bytes : {int64_t{1}, 80 * kGib, 141 * kGib}) {
    const std::string line = test::error_of([&] { plan(0, free_bytes); });
    EXPECT_EQ(line.rfind("the model does not fit on the device: needs ", 0), 0u) << line;
    EXPECT_EQ(line.find("a context of"), std::string::npos) << line;
  }
}

TEST_F(Capacity, TensorsOfACheckpoint) {
  const Checkpoint checkpoint = Checkpoint::open(DSV4_SOURCE_DIR "/tests/data/mini");
  int64_t bytes = 0;
  for (const TensorSpec& spec : tensor_specs(checkpoint)) bytes += spec.bytes();
  EXPECT_EQ(bytes, checkpoint.tensor_bytes());
}

}  // namespace
}  // namespace dsv4
