#include "backend/cuda/tune/token_tiles.h"

#include <gtest/gtest.h>

namespace dsv4::cuda {
namespace {

TEST(TokenTiles, CoverAllTokensWithoutIdleClusters) {
  for (const int num_sms : {1, 132}) {
    for (const int cluster_size : {1, 8, 16}) {
      for (const int max_tile_tokens : {1, 2, 16}) {
        for (int num_tokens = 0; num_tokens < 9000; num_tokens += num_tokens < 300 ? 1 : 997) {
          const TokenTiles tiles = token_tiles(num_tokens, max_tile_tokens, cluster_size, num_sms);
          ASSERT_GE(tiles.tile_tokens, 1);
          ASSERT_LE(tiles.tile_tokens, max_tile_tokens);
          ASSERT_GE(tiles.tiles_per_cluster, 1);
          ASSERT_LE(tiles.tiles_per_cluster, 8);
          const int cluster_tokens = tiles.tile_tokens * tiles.tiles_per_cluster;
          ASSERT_GE(tiles.num_clusters * cluster_tokens, num_tokens);
          ASSERT_LT((tiles.num_clusters - 1) * cluster_tokens, num_tokens + (num_tokens == 0 ? 1 : 0)) << num_tokens;
        }
      }
    }
  }
}

TEST(TokenTiles, DecodeUsesAClusterPerTokenAndPrefillFullTiles) {
  EXPECT_EQ(token_tiles(0, 16, 16, 132).num_clusters, 0);
  EXPECT_EQ(token_tiles(8, 16, 16, 132).num_clusters, 8);
  EXPECT_EQ(token_tiles(8, 16, 16, 132).tile_tokens, 1);
  EXPECT_EQ(token_tiles(8192, 16, 16, 132).tile_tokens, 16);
  EXPECT_EQ(token_tiles(8192, 16, 16, 132).num_clusters, 64);
}

}  // namespace
}  // namespace dsv4::cuda
