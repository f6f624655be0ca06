// How a product is cut into CTAs. Pure functions of shapes, without CUDA.
#pragma once

namespace dsv4::cuda {

struct LinearTune {
  int tokens_per_tile;  // columns of a CTA: 8, 32, 64 or 128
  int splits;           // CTAs of a cluster that share the K dimension: 1, 2, 4 or 8
};

// `num_row_tiles` tiles of 128 weight rows in all segments of a launch, `max_blocks` K blocks of the longest. The split depends on the
// weights alone: a token's sums are the same in every batch.
LinearTune tune_linear(int num_row_tiles, int max_blocks, int num_tokens, int num_sms);

// Columns per tile for experts that get `num_pairs` (token, expert) pairs of `num_experts` experts.
int tune_expert_tokens(int num_pairs, int num_experts);

}  // namespace dsv4::cuda
