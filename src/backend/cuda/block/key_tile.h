// Cache entries of 64 keys in shared memory as f16, the operand of both products: rows of keys [64, 64 dims], 128-byte swizzled blocks,
// that wgmma reads K-major as keys (S = Q·Kᵀ) and N-major as values (O = P·V). Four threads make a block of a key.
#pragma once

#include "backend/cuda/block/formats.h"
#include "backend/cuda/block/swizzle.h"
#include "ops/kv_layout.h"

namespace dsv4::cuda {

inline constexpr int kBlockDims = 64;                           // dims under one scale, and the rotated dims
inline constexpr uint32_t kBlockBytes = 64 * kSwizzleRowBytes;  // of 64 keys, or of 64 heads of Q

// Dims of every 16 stand in the order 0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, …: a lane that holds columns 2q, 2q + 1, 8 + 2q and 9 + 2q of a
// product then has dims 4q … 4q + 3. Two chunks of eight dims in that order.
struct PermutedDims {
  uint4 chunks[2];
};

// Of two times eight bf16.
__device__ __forceinline__ PermutedDims permuted_f16(const uint4& low, const uint4& high) {
  return {make_uint4(bf16x2_to_f16x2(low.x), bf16x2_to_f16x2(low.z), bf16x2_to_f16x2(high.x), bf16x2_to_f16x2(high.z)),
          make_uint4(bf16x2_to_f16x2(low.y), bf16x2_to_f16x2(low.w), bf16x2_to_f16x2(high.y), bf16x2_to_f16x2(high.w))};
}

// Of 16 e4m3 codes under one scale (an f16 pair).
__device__ __forceinline__ PermutedDims permuted_f16(const uint4& codes, uint32_t scale) {
  PermutedDims dims;
  scaled_f16x4(codes.x, scale, dims.chunks[0].x, dims.chunks[1].x);
  scaled_f16x4(codes.y, scale, dims.chunks[0].y, dims.chunks[1].y);
  scaled_f16x4(codes.z, scale, dims.chunks[0].z, dims.chunks[1].z);
  scaled_f16x4(codes.w, scale, dims.chunks[0].w, dims.chunks[1].w);
  return dims;
}

}  // namespace dsv4::cuda
