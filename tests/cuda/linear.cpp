#include "backend/cuda/tune/linear.h"

#include <gtest/gtest.h>

namespace dsv4::cuda {
namespace {

constexpr int kSms = 132;

// 128-row tiles and 128-column blocks of Flash's products.
TEST(TuneLinear, NarrowMatricesFillTheGpuByTheirColumns) {
  EXPECT_EQ(tune_linear(33, 64, 1, kSms).splits, 4);    // wq_a, wkv, compressors, indexer
  EXPECT_EQ(tune_linear(32, 64, 1, kSms).splits, 4);    // wo_b
  EXPECT_EQ(tune_linear(64, 32, 1, kSms).splits, 2);    // wo_a
  EXPECT_EQ(tune_linear(320, 8, 1, kSms).splits, 1);    // wq_b, indexer wq_b
  EXPECT_EQ(tune_linear(1010, 64, 1, kSms).splits, 1);  // output matrix
}

TEST(TuneLinear, TheSplitDoesNotDependOnTheBatch) {
  for (int row_tiles : {1, 3, 12, 32, 64, 119, 320}) {
    for (int blocks : {1, 2, 4, 8, 32, 56, 128}) {
      const int splits = tune_linear(row_tiles, blocks, 1, kSms).splits;
      for (int tokens : {2, 8, 9, 33, 64, 65, 256, 8192}) EXPECT_EQ(tune_linear(row_tiles, blocks, tokens, kSms).splits, splits);
    }
  }
}

TEST(TuneLinear, SplitsLeaveBlocksForEveryCtaAndRoomForTheirScales) {
  for (int blocks = 1; blocks <= 512; ++blocks) {
    const int splits = tune_linear(1, blocks, 1, kSms).splits;
    EXPECT_TRUE(splits == 1 || splits == 2 || splits == 4 || splits == 8) << blocks;
    EXPECT_TRUE(splits == 1 || blocks >= 2 * splits || blocks > 64) << blocks;
    EXPECT_LE((blocks + splits - 1) / splits, 64) << blocks;
  }
}

TEST(TuneLinear, TilesHoldTheTokensOfSmallBatches) {
  EXPECT_EQ(tune_linear(32, 64, 1, kSms).tokens_per_tile, 8);
  EXPECT_EQ(tune_linear(32, 64, 8, kSms).tokens_per_tile, 8);
  EXPECT_EQ(tune_linear(32, 64, 9, kSms).tokens_per_tile, 32);
  EXPECT_EQ(tune_linear(32, 64, 64, kSms).tokens_per_tile, 64);
  EXPECT_EQ(tune_linear(32, 64, 65, kSms).tokens_per_tile, 128);
}

TEST(TuneLinear, ExpertTilesFollowTheTokensOfAnExpert) {
  EXPECT_EQ(tune_expert_tokens(6, 256), 8);       // one token
  EXPECT_EQ(tune_expert_tokens(64 * 6, 256), 8);  // experts get 1.5 on average
  EXPECT_EQ(tune_expert_tokens(256 * 6, 256), 32);
  EXPECT_EQ(tune_expert_tokens(8192 * 6, 256), 128);
  EXPECT_EQ(tune_expert_tokens(4, 0), 8);
}

}  // namespace
}  // namespace dsv4::cuda
