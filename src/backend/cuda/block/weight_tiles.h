// How weight matrices lie in device memory: the one definition, for the repack kernels that write them, the products that read them, and
// tests on the host. Plain C++.
//
// A matrix [rows, cols] is cut into tiles of 64 rows and tile_cols() columns; rows are padded with zeros to a multiple of 64. Tiles are
// stored tile row after tile row, column blocks ascending within. In a tile a warp w of four takes rows 16w … 16w + 15, and every lane
// finds the 16 bytes of an mma.m16n8 fragment's A operand together: [warp 0..3][step][lane 0..31][16 bytes], where lane = 4g + q.
//
//   kFp8Tile   e4m3, to be widened for m16n8k16: step j of 4 has columns 32j … as two k16 steps s; bytes 8s: (row g, columns 16s + 2q, +1),
//              (row g + 8, the same), (row g, columns 16s + 8 + 2q, +1), (row g + 8, those)
//   kBf16Tile  bf16, m16n8k16: step j of 4 has columns 16j …; words: (row g, columns 2q, +1), (row g + 8, the same),
//              (row g, columns 8 + 2q, +1), (row g + 8, those)
//   kFp4Tile   e2m1, to be widened for m16n8k16: two steps of 32 columns share a chunk c of 2; words: (step 2c, row g), (step 2c, row g +
//   8),
//              (step 2c + 1, row g), (step 2c + 1, row g + 8), each an fp4_word() of columns 2q, +1, 8 + 2q, +1 of the step's two k16
//              steps; after the 4096 bytes of codes, the ue8m0 scales [64 rows][4 groups of 32 columns]
#pragma once

#include <cstdint>

namespace dsv4::cuda {

enum class WeightLayout : uint8_t { kFp8Tile, kBf16Tile, kFp4Tile };

inline constexpr int kTileRows = 64;
inline constexpr int kTileBytes = 8192;  // of every layout but kFp4Tile
inline constexpr int kFp4TileCodeBytes = 4096;
inline constexpr int kFp4TileScaleBytes = 256;
inline constexpr int kFp4TileBytes = kFp4TileCodeBytes + kFp4TileScaleBytes;

constexpr int tile_cols(WeightLayout layout) {
  return layout == WeightLayout::kBf16Tile ? 64 : 128;
}
constexpr int tile_bytes(WeightLayout layout) {
  return layout == WeightLayout::kFp4Tile ? kFp4TileBytes : kTileBytes;
}

// Tiles of one tile row, and of the first `rows` rows.
constexpr int tiles_per_row(WeightLayout layout, int cols) {
  return cols / tile_cols(layout);
}
constexpr int64_t num_tiles(WeightLayout layout, int rows, int cols) {
  return int64_t{(rows + kTileRows - 1) / kTileRows} * tiles_per_row(layout, cols);
}

// Bytes of a packed matrix, and where the tile that holds element (row, col) begins.
constexpr int64_t packed_bytes(WeightLayout layout, int rows, int cols) {
  return num_tiles(layout, rows, cols) * tile_bytes(layout);
}
constexpr int64_t tile_offset(WeightLayout layout, int cols, int row, int col) {
  return (int64_t{row / kTileRows} * tiles_per_row(layout, cols) + col / tile_cols(layout)) * tile_bytes(layout);
}

// Where the 16 bytes of a lane begin; `num_steps` per warp.
constexpr int lane_offset(int num_steps, int warp, int step, int g, int q) {
  return ((warp * num_steps + step) * 32 + 4 * g + q) * 16;
}

// Byte offset inside its tile of element (row, col), both inside the tile.
constexpr int fp8_tile_offset(int row, int col) {
  const int pair = 4 * (col % 32 / 16) + 2 * (col % 16 / 8) + row % 16 / 8;
  return lane_offset(4, row / 16, col / 32, row % 8, col % 8 / 2) + 2 * pair + col % 2;
}
constexpr int bf16_tile_offset(int row, int col) {
  const int word = 2 * (col % 16 / 8) + row % 16 / 8;
  return lane_offset(4, row / 16, col / 16, row % 8, col % 8 / 2) + 4 * word + 2 * (col % 2);
}

// Byte offset of the word with the columns of a lane q in step `step` of a row, and of the scale of a row's columns 32·step ….
constexpr int fp4_tile_word_offset(int row, int step, int q) {
  const int word = 2 * (step % 2) + row % 16 / 8;
  return lane_offset(2, row / 16, step / 2, row % 8, q) + 4 * word;
}
constexpr int fp4_tile_scale_offset(int row, int step) {
  return kFp4TileCodeBytes + 4 * row + step;
}

// Eight e2m1 codes in the order that widens with byte permutations, masks and shifts: the magnitude (3 bits) of the first four at bits 4i,
// of the last four at bits 16 + 4i; the sign of the first four at bits 8i + 3, of the last four at bits 8i + 7. `first`, `last`: four codes
// each, one k16 step's columns 2q, 2q + 1, 8 + 2q, 9 + 2q, the first in the lowest four bits.
constexpr uint32_t fp4_word(uint32_t first, uint32_t last) {
  uint32_t word = (first & 0x7777u) | (last & 0x7777u) << 16;
  for (int i = 0; i < 4; ++i) {
    word |= (first >> (4 * i + 3) & 1u) << (8 * i + 3);
    word |= (last >> (4 * i + 3) & 1u) << (8 * i + 7);
  }
  return word;
}

}  // namespace dsv4::cuda
