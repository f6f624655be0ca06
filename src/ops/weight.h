// How ops see the weights of a checkpoint: pointers into its bytes, in the checkpoint's own precision (spec 3.2).
#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace dsv4 {

inline constexpr int kFp8Block = 128;        // weight and activation blocks of FP8 products
inline constexpr int kFp4Block = 32;         // columns that share a scale in an FP4 weight
inline constexpr int kKvBlock = 64;          // dims that share a scale in a KV entry
inline constexpr int kIndexerFp4Block = 32;  // dims that share a scale in indexer queries and entries

constexpr int ceil_div(int a, int b) {
  return (a + b - 1) / b;
}

// e4m3 codes [rows, cols] with one ue8m0 scale per 128×128 block.
struct Fp8Weight {
  const uint8_t* codes = nullptr;   // e4m3 [rows, cols]
  const uint8_t* scales = nullptr;  // ue8m0 [⌈rows/128⌉, ⌈cols/128⌉]
  int rows = 0;
  int cols = 0;
};

struct Bf16Weight {
  const Bf16* data = nullptr;  // [rows, cols]
  int rows = 0;
  int cols = 0;
};

enum class ExpertFormat : uint8_t {
  kFp4,  // codes: e2m1 pairs [rows, cols/2], even column in the low nibble; scales: ue8m0 [rows, cols/32]
  kFp8,  // codes: e4m3 [rows, cols]; scales: ue8m0 [⌈rows/128⌉, ⌈cols/128⌉]
};

// One matrix of one routed expert; its shape and format stand in the op's params.
struct ExpertMatrix {
  const uint8_t* codes = nullptr;
  const uint8_t* scales = nullptr;
};

// FP8 activations: e4m3 codes [rows, cols] with one ue8m0 scale per row and 128 columns (spec 3.3), and the same numbers once more as bf16,
// which holds them exactly. The CPU reads the codes, a GPU multiplies the values.
struct Fp8Activation {
  const uint8_t* codes = nullptr;   // [rows, cols]
  const uint8_t* scales = nullptr;  // [rows, ⌈cols/128⌉]
  const Bf16* values = nullptr;     // [rows, cols], code·scale; only a GPU needs it
};

}  // namespace dsv4
