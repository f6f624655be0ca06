// The vectorised leaf functions of the CPU products. Each exists once per instruction set (AVX-512, AVX2, baseline), chosen when the
// program is loaded; all versions work on 16 lanes in the same order and never contract a·b+c, so they agree bit for bit.
//
// Word order. A product's operands are fp32 rows whose elements are permuted so that narrow codes decode without moving between lanes: with
// P codes in a 32-bit word (bf16 2, e4m3 4, e2m1 8), 16 words are loaded into 16 lanes and code e of every word becomes one vector. So
// within a group of 16·P elements, element P·w + e stands at 16·e + w. A dot product does not mind as long as both operands are in the same
// order. Rows are padded with zeros to a multiple of kPadding elements, which is a whole number of groups for every P.
#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace dsv4::cpu {

inline constexpr int kLanes = 16;
inline constexpr int kPadding = 128;
inline constexpr int kRowTile = 4;    // weight rows of one dot_tile
inline constexpr int kTokenTile = 4;  // activation rows of one dot_tile

inline constexpr int kBf16PerWord = 2;
inline constexpr int kFp8PerWord = 4;
inline constexpr int kFp4PerWord = 8;

constexpr int padded(int count) {
  return (count + kPadding - 1) / kPadding * kPadding;
}

// Part of one row of a weight, in word order of its own format, scales applied, padded: out[padded(count)]. The part begins at a multiple
// of 128 columns.
void decode_bf16_row(const Bf16* x, int count, float* out);
// codes: e4m3 [count]; scales: ue8m0 [⌈count/128⌉].
void decode_fp8_row(const uint8_t* codes, const uint8_t* scales, int count, float* out);
// codes: e2m1 pairs [count/2], scales: ue8m0 [count/32]; count is a multiple of 32.
void decode_fp4_row(const uint8_t* codes, const uint8_t* scales, int count, float* out);

// The same values in natural order, without padding: out[count].
void bf16_to_float(const Bf16* x, int count, float* out);
void fp8_to_float(const uint8_t* codes, const uint8_t* scales, int count, float* out);

// Puts a natural row into the word order of `per_word` codes (2, 4 or 8) and pads it: out[padded(count)].
void to_word_order(const float* row, int count, int per_word, float* out);

// Quantises up to 128 values (spec 3.3): codes[count], and the block's scale code.
void quantize_fp8_block(const Bf16* x, int count, uint8_t* codes, uint8_t* scale);

// Lane sums of kRowTile weight rows with num_tokens (1 or kTokenTile) activation rows over `count` columns, a multiple of kLanes:
// sums[t][r][l] += Σ_k w[r·w_stride + 16k + l] · x[t][16k + l], k ascending.
void dot_tile(const float* w, int w_stride, const float* const* x, int num_tokens, int count, float* sums);

// out[r] = the sum of the 16 lanes lane_sums[r][16] in a fixed tree, for kRowTile rows.
void reduce_lanes(const float* lane_sums, float* out);

}  // namespace dsv4::cpu
