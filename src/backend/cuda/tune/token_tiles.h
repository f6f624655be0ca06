// How the tokens of a step are dealt to clusters that keep their weights in registers. A token's result does not depend on it.
#pragma once

#include <algorithm>

#include "ops/weight.h"

namespace dsv4::cuda {

struct TokenTiles {
  int tile_tokens;        // tokens that a cluster computes at a time
  int tiles_per_cluster;  // tiles that a cluster computes one after the other
  int num_clusters;
};

// One tile for every cluster that fits the device while tiles are small; full tiles, several of them per cluster, beyond. A cluster takes
// at most 8, so that clusters which do not fit at once even out. `max_tile_tokens` ≥ 1.
inline TokenTiles token_tiles(int num_tokens, int max_tile_tokens, int cluster_size, int num_sms) {
  constexpr int kMaxTilesPerCluster = 8;
  const int num_slots = std::max(1, num_sms / cluster_size);
  TokenTiles tiles;
  tiles.tile_tokens = std::clamp(ceil_div(num_tokens, num_slots), 1, max_tile_tokens);
  const int num_tiles = ceil_div(num_tokens, tiles.tile_tokens);
  tiles.tiles_per_cluster = std::clamp(ceil_div(num_tiles, num_slots), 1, kMaxTilesPerCluster);
  tiles.num_clusters = ceil_div(num_tiles, tiles.tiles_per_cluster);
  return tiles;
}

}  // namespace dsv4::cuda
