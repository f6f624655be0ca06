// Walsh–Hadamard rotation (spec 2.6): x ← x·M/√dim, M the Sylvester matrix in natural order; fp32 butterfly and scale. A building block of
// compress and indexer_query.
#pragma once

#include <cstdint>

namespace dsv4 {

// Largest power of two the rotation accepts.
inline constexpr int kMaxHadamardDim = 512;

constexpr bool is_hadamard_dim(int dim) {
  return dim > 0 && dim <= kMaxHadamardDim && (dim & (dim - 1)) == 0;
}

}  // namespace dsv4
