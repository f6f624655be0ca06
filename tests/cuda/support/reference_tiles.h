// Packed weights as the text of block/weight_tiles.h describes them, byte after byte, written without its functions.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/cuda/block/weight_tiles.h"

namespace dsv4::test {

// Element (row, col) of a matrix of `bytes_per_element` bytes each, 0 in rows below the last.
struct HostMatrix {
  const uint8_t* data;
  int rows;
  int cols;
  int bytes_per_element = 1;

  uint8_t byte(int row, int col, int byte_idx = 0) const {
    if (row >= rows) return 0;
    return data[(static_cast<size_t>(row) * static_cast<size_t>(cols) + static_cast<size_t>(col)) * static_cast<size_t>(bytes_per_element) +
                static_cast<size_t>(byte_idx)];
  }
};

// Calls `on_tile(first row, first column)` for every tile in their order in memory.
template <typename OnTile>
void for_tiles(int rows, int cols, int columns_of_tile, OnTile&& on_tile) {
  for (int row = 0; row < rows; row += 64) {
    for (int col = 0; col < cols; col += columns_of_tile) on_tile(row, col);
  }
}

inline std::vector<uint8_t> reference_fp8_tiles(const HostMatrix& matrix) {
  std::vector<uint8_t> packed;
  for_tiles(matrix.rows, matrix.cols, 128, [&](int row0, int col0) {
    for (int warp = 0; warp < 4; ++warp)
      for (int step = 0; step < 4; ++step)
        for (int lane = 0; lane < 32; ++lane)
          for (int eight_columns = 0; eight_columns < 4; ++eight_columns)  // 0 and 1 are one k16 step, 2 and 3 the other
            for (int row : {16 * warp + lane / 4, 16 * warp + lane / 4 + 8})
              for (int i = 0; i < 2; ++i)
                packed.push_back(matrix.byte(row0 + row, col0 + 32 * step + 8 * eight_columns + 2 * (lane % 4) + i));
  });
  return packed;
}

inline std::vector<uint8_t> reference_bf16_tiles(const HostMatrix& matrix) {
  std::vector<uint8_t> packed;
  for_tiles(matrix.rows, matrix.cols, 64, [&](int row0, int col0) {
    for (int warp = 0; warp < 4; ++warp)
      for (int step = 0; step < 4; ++step)
        for (int lane = 0; lane < 32; ++lane)
          for (int col : {16 * step + 2 * (lane % 4), 16 * step + 8 + 2 * (lane % 4)})
            for (int row : {16 * warp + lane / 4, 16 * warp + lane / 4 + 8})
              for (int i = 0; i < 4; ++i) packed.push_back(matrix.byte(row0 + row, col0 + col + i / 2, i % 2));
  });
  return packed;
}

// `codes`: pairs [rows, cols/2], the even column in the low nibble; `scales` [rows, cols/32].
inline std::vector<uint8_t> reference_fp4_tiles(const uint8_t* codes, const uint8_t* scales, int rows, int cols) {
  const HostMatrix pairs{codes, rows, cols / 2};
  const HostMatrix groups{scales, rows, cols / 32};
  const auto code = [&](int row, int col) { return static_cast<uint32_t>(pairs.byte(row, col / 2) >> (col % 2 * 4) & 15); };
  std::vector<uint8_t> packed;
  for_tiles(rows, cols, 128, [&](int row0, int col0) {
    for (int warp = 0; warp < 4; ++warp)
      for (int chunk = 0; chunk < 2; ++chunk)
        for (int lane = 0; lane < 32; ++lane)
          for (int step : {2 * chunk, 2 * chunk + 1})
            for (int row : {16 * warp + lane / 4, 16 * warp + lane / 4 + 8}) {
              uint32_t word = 0;
              for (int i = 0; i < 4; ++i) {
                const int column = i / 2 * 8 + 2 * (lane % 4) + i % 2;
                const uint32_t first = code(row0 + row, col0 + 32 * step + column);
                const uint32_t last = code(row0 + row, col0 + 32 * step + 16 + column);
                word += (first % 8) << (4 * i);
                word += (last % 8) << (16 + 4 * i);
                word += (first / 8) << (8 * i + 3);
                word += (last / 8) << (8 * i + 7);
              }
              for (int i = 0; i < 4; ++i) packed.push_back(static_cast<uint8_t>(word >> (8 * i)));
            }
    for (int row = 0; row < 64; ++row)
      for (int group = 0; group < 4; ++group) packed.push_back(groups.byte(row0 + row, col0 / 32 + group));
  });
  return packed;
}

}  // namespace dsv4::test
