// Products of activation rows with the rows of a weight: the loops around the leaf functions of vector.h that every linear op shares.
//
// A weight is seen through a "rows" object: decode(row, col_begin, count, out) writes a padded part of a row in the word order kPerWord of
// its format. Every output is the same sum for any number of tokens, any row tile and any thread: its 16 lane sums run over the columns in
// ascending order, then reduce_lanes adds them. Scales are powers of two, so applying them to the elements before the sum changes no
// rounding.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

#include "backend/cpu/parallel.h"
#include "backend/cpu/vector.h"
#include "base/dtype.h"
#include "ops/weight.h"

namespace dsv4::cpu {

inline constexpr int kTokenBlock = 64;     // activation rows that share one decoding of the weight
inline constexpr int kColumnChunk = 1024;  // columns of kRowTile weight rows that stay in the first-level cache
static_assert(kColumnChunk % kPadding == 0 && kTokenBlock % kTokenTile == 0);

struct Bf16Rows {
  static constexpr int kPerWord = kBf16PerWord;
  Bf16Weight weight;

  int rows() const { return weight.rows; }
  int cols() const { return weight.cols; }
  void decode(int row, int col_begin, int count, float* out) const {
    decode_bf16_row(weight.data + static_cast<int64_t>(row) * weight.cols + col_begin, count, out);
  }
};

struct Fp8Rows {
  static constexpr int kPerWord = kFp8PerWord;
  Fp8Weight weight;

  int rows() const { return weight.rows; }
  int cols() const { return weight.cols; }
  void decode(int row, int col_begin, int count, float* out) const {
    const int64_t scale_cols = ceil_div(weight.cols, kFp8Block);
    decode_fp8_row(weight.codes + static_cast<int64_t>(row) * weight.cols + col_begin,
                   weight.scales + row / kFp8Block * scale_cols + col_begin / kFp8Block, count, out);
  }
};

struct Fp4Rows {
  static constexpr int kPerWord = kFp4PerWord;
  ExpertMatrix weight;
  int num_rows;
  int num_cols;

  int rows() const { return num_rows; }
  int cols() const { return num_cols; }
  void decode(int row, int col_begin, int count, float* out) const {
    const int64_t begin = static_cast<int64_t>(row) * num_cols + col_begin;
    decode_fp4_row(weight.codes + begin / 2, weight.scales + begin / kFp4Block, count, out);
  }
};

// Sums of up to kRowTile weight rows with up to kTokenBlock activation rows: sums[t][r]. x[t] is padded and in the weight's word order.
// Rows past num_rows are computed as zeros.
template <class Rows>
void multiply_tile(const Rows& weight, int row_begin, int num_rows, const float* const* x, int num_tokens, float (*sums)[kRowTile]) {
  alignas(64) float lane_sums[kTokenBlock * kRowTile * kLanes];
  alignas(64) float chunk[kRowTile * kColumnChunk];
  std::fill_n(lane_sums, num_tokens * kRowTile * kLanes, 0.0f);
  if (num_rows < kRowTile) std::fill_n(chunk, kRowTile * kColumnChunk, 0.0f);
  for (int col_begin = 0; col_begin < weight.cols(); col_begin += kColumnChunk) {
    const int count = std::min(kColumnChunk, weight.cols() - col_begin);
    for (int r = 0; r < num_rows; ++r) weight.decode(row_begin + r, col_begin, count, chunk + r * kColumnChunk);
    for (int t = 0; t < num_tokens;) {
      const int tile = num_tokens - t >= kTokenTile ? kTokenTile : 1;
      const float* tile_x[kTokenTile];
      for (int i = 0; i < tile; ++i) tile_x[i] = x[t + i] + col_begin;
      dot_tile(chunk, kColumnChunk, tile_x, tile, padded(count), lane_sums + t * kRowTile * kLanes);
      t += tile;
    }
  }
  for (int t = 0; t < num_tokens; ++t) reduce_lanes(lane_sums + t * kRowTile * kLanes, sums[t]);
}

// Multiply-adds a row tile is worth, the decoding of its weights included.
constexpr int64_t tile_work(int cols, int num_tokens) {
  return static_cast<int64_t>(kRowTile) * cols * (num_tokens + 4);
}

// store(t, o, sum) for every token t and weight row o: sum = Σ_k x[t][k]·w[o][k]. load_token(t, out) writes padded row t of x in word
// order.
template <class Rows, class LoadToken, class Store>
void multiply(const Rows& weight, int num_tokens, LoadToken&& load_token, Store&& store) {
  const int stride = padded(weight.cols());
  const auto activations = std::make_unique_for_overwrite<float[]>(static_cast<size_t>(std::min(num_tokens, kTokenBlock)) * stride);
  for (int block = 0; block < num_tokens; block += kTokenBlock) {
    const int block_tokens = std::min(kTokenBlock, num_tokens - block);
    const float* x[kTokenBlock];
    for (int t = 0; t < block_tokens; ++t) x[t] = activations.get() + static_cast<size_t>(t) * stride;
    parallel_for(block_tokens, 4 * stride, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) load_token(block + static_cast<int>(t), activations.get() + t * stride);
    });
    parallel_for(ceil_div(weight.rows(), kRowTile), tile_work(weight.cols(), block_tokens), [&](int64_t begin, int64_t end) {
      float sums[kTokenBlock][kRowTile];
      for (int64_t tile = begin; tile < end; ++tile) {
        const int row_begin = static_cast<int>(tile) * kRowTile;
        const int num_rows = std::min(kRowTile, weight.rows() - row_begin);
        multiply_tile(weight, row_begin, num_rows, x, block_tokens, sums);
        for (int t = 0; t < block_tokens; ++t) {
          for (int r = 0; r < num_rows; ++r) store(block + t, row_begin + r, sums[t][r]);
        }
      }
    });
  }
}

// Writes activation row `row` of `cols` elements padded and in the word order of `per_word` codes: out[padded(cols)].
inline void load_bf16_row(const Bf16* x, int64_t row, int cols, int per_word, float* out) {
  alignas(64) float natural[kColumnChunk];
  for (int begin = 0; begin < cols; begin += kColumnChunk) {
    const int count = std::min(kColumnChunk, cols - begin);
    bf16_to_float(x + row * cols + begin, count, natural);
    to_word_order(natural, count, per_word, out + begin);
  }
}
inline void load_fp8_row(const Fp8Activation& x, int64_t row, int cols, int per_word, float* out) {
  alignas(64) float natural[kColumnChunk];
  for (int begin = 0; begin < cols; begin += kColumnChunk) {
    const int count = std::min(kColumnChunk, cols - begin);
    fp8_to_float(x.codes + row * cols + begin, x.scales + row * ceil_div(cols, kFp8Block) + begin / kFp8Block, count, natural);
    to_word_order(natural, count, per_word, out + begin);
  }
}

}  // namespace dsv4::cpu
