#include "backend/cuda/block/weight_tiles.h"

#include <gtest/gtest.h>

#include <cstring>

#include "support/random_data.h"
#include "support/reference_tiles.h"

namespace dsv4::cuda {
namespace {

using test::HostMatrix;

// A matrix whose last tile row is not full, two tile columns of FP8.
constexpr int kRows = 100;
constexpr int kCols = 256;

class WeightTiles : public ::testing::Test {
 protected:
  // The matrix in tiles, every element put where `offset` says.
  template <typename Offset>
  std::vector<uint8_t> packed(WeightLayout layout, const HostMatrix& matrix, Offset&& offset) {
    std::vector<uint8_t> bytes(static_cast<size_t>(packed_bytes(layout, matrix.rows, matrix.cols)));
    for (int row = 0; row < matrix.rows; ++row) {
      for (int col = 0; col < matrix.cols; ++col) {
        const int64_t at = tile_offset(layout, matrix.cols, row, col) + offset(row % kTileRows, col % tile_cols(layout));
        for (int i = 0; i < matrix.bytes_per_element; ++i) bytes.at(static_cast<size_t>(at + i)) = matrix.byte(row, col, i);
      }
    }
    return bytes;
  }

  test::Random random_{7};
};

TEST_F(WeightTiles, Fp8) {
  const std::vector<uint8_t> codes = test::random_bytes(random_, kRows * kCols);
  const HostMatrix matrix{codes.data(), kRows, kCols};
  EXPECT_EQ(packed(WeightLayout::kFp8Tile, matrix, fp8_tile_offset), test::reference_fp8_tiles(matrix));
}

TEST_F(WeightTiles, Bf16) {
  const std::vector<uint8_t> values = test::random_bytes(random_, kRows * kCols * 2);
  const HostMatrix matrix{values.data(), kRows, kCols, 2};
  EXPECT_EQ(packed(WeightLayout::kBf16Tile, matrix, bf16_tile_offset), test::reference_bf16_tiles(matrix));
}

TEST_F(WeightTiles, Fp4) {
  const std::vector<uint8_t> codes = test::random_bytes(random_, kRows * kCols / 2);
  const std::vector<uint8_t> scales = test::random_bytes(random_, kRows * kCols / 32);
  std::vector<uint8_t> bytes(static_cast<size_t>(packed_bytes(WeightLayout::kFp4Tile, kRows, kCols)));
  // Four codes of a k16 step: columns col, col + 1, col + 8, col + 9.
  const auto four_codes = [&](int row, int col) {
    const size_t at = (static_cast<size_t>(row) * kCols + static_cast<size_t>(col)) / 2;
    return static_cast<uint32_t>(codes[at] | codes[at + 4] << 8);
  };
  for (int row = 0; row < kRows; ++row) {
    for (int col = 0; col < kCols; col += 32) {
      const int step = col % 128 / 32;
      const auto tile = static_cast<size_t>(tile_offset(WeightLayout::kFp4Tile, kCols, row, col));
      for (int q = 0; q < 4; ++q) {
        const uint32_t word = fp4_word(four_codes(row, col + 2 * q), four_codes(row, col + 16 + 2 * q));
        std::memcpy(&bytes.at(tile + static_cast<size_t>(fp4_tile_word_offset(row % 64, step, q))), &word, sizeof(word));
      }
      bytes.at(tile + static_cast<size_t>(fp4_tile_scale_offset(row % 64, step))) = scales[static_cast<size_t>(row * kCols + col) / 32];
    }
  }
  EXPECT_EQ(bytes, test::reference_fp4_tiles(codes.data(), scales.data(), kRows, kCols));
}

}  // namespace
}  // namespace dsv4::cuda
