// Kernels that bring weights into the layouts of block/weight_tiles.h, and that make random ones.
#pragma once

#include <cstdint>

#include "backend/cuda/block/weight_tiles.h"
#include "backend/cuda/runtime/launch.h"
#include "ops/random_weights.h"

namespace dsv4::cuda {

// Rows of a matrix, all columns.
struct RepackParams {
  WeightLayout layout;
  const uint8_t* codes;   // device, 4-byte aligned: [num_rows, cols] elements as the checkpoint has them
  const uint8_t* scales;  // device, 4-byte aligned: ue8m0 [num_rows, cols/32]; kFp4Tile alone
  uint8_t* out;           // packed matrix, 16-byte aligned
  int rows;               // of the whole matrix
  int cols;               // a multiple of tile_cols(layout)
  int first_row;          // a multiple of kTileRows
  int num_rows;           // a multiple of kTileRows, or up to the last row
};

void repack(Context& context, const RepackParams& params);

// Fills device memory (8-byte aligned) with the words of stream `seed`, as cpu::fill_random does; bytes is a multiple of 8.
void fill_random(Context& context, void* memory, int64_t bytes, RandomWords words, uint64_t seed);

// The same for packed FP4 tiles: random codes, and the scales `scales`.
void fill_random_fp4_tiles(Context& context, void* tiles, int64_t num_tiles, RandomWords scales, uint64_t seed);

}  // namespace dsv4::cuda
