// 128-byte swizzled tiles in shared memory and the descriptors with which wgmma reads them. PTX ISA, "Asynchronous Warpgroup Level Matrix
// Shared Memory Layout" and "Matrix Descriptor Format". tests/cuda/layout/ prints and asserts the map.
#pragma once

#include <cstdint>

#include "backend/cuda/ptx/mbarrier.h"

namespace dsv4::cuda {

inline constexpr uint32_t kSwizzleRowBytes = 128;    // a row of a tile
inline constexpr uint32_t kSwizzleAtomBytes = 1024;  // 8 rows: the swizzle repeats; tiles begin at a multiple of it

// Offset of 16-byte chunk `chunk` (0 to 7) of row `row` in a tile of 128-byte rows.
__device__ __forceinline__ uint32_t swizzled_offset(uint32_t row, uint32_t chunk) {
  return row * kSwizzleRowBytes + ((chunk ^ (row & 7)) << 4);
}

// Descriptor of an operand in a 128-byte swizzled tile. `address`: shared-memory address of the first element. `leading_bytes` and
// `stride_bytes`: for K-major operands (rows of K values) leading is not used and stride is the distance of groups of 8 rows (1024); for
// N-major operands (rows of 64 N values) leading is the distance of tiles of 64 columns and stride the distance of groups of 8 K rows.
__device__ __forceinline__ uint64_t swizzled_descriptor(uint32_t address, uint32_t leading_bytes = 16,
                                                        uint32_t stride_bytes = kSwizzleAtomBytes) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  return kSwizzle128 | (uint64_t{stride_bytes >> 4} << 32) | (uint64_t{leading_bytes >> 4} << 16) | ((address & 0x3ffffu) >> 4);
}

}  // namespace dsv4::cuda
