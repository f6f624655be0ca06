// Eight consecutive bf16 of a row as fp32 numbers, moved in one 16-byte access: the share of a thread in every row-wise kernel.
#pragma once

#include "backend/cuda/block/formats.h"

namespace dsv4::cuda {

inline constexpr int kChunk = 8;  // elements of a 16-byte access

__device__ __forceinline__ uint4 load_chunk(const Bf16* address) {
  return *reinterpret_cast<const uint4*>(address);
}
__device__ __forceinline__ void store_chunk(Bf16* address, const uint4& chunk) {
  *reinterpret_cast<uint4*>(address) = chunk;
}

__device__ __forceinline__ void unpack_bf16x8(const uint4& chunk, float (&x)[kChunk]) {
  const uint32_t pairs[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    x[2 * i] = low_to_float(pairs[i]);
    x[2 * i + 1] = high_to_float(pairs[i]);
  }
}

// Rounds to nearest even; exact for values that are bf16 already.
__device__ __forceinline__ uint4 pack_bf16x8(const float (&x)[kChunk]) {
  return {ptx::convert_bf16x2(x[1], x[0]), ptx::convert_bf16x2(x[3], x[2]), ptx::convert_bf16x2(x[5], x[4]),
          ptx::convert_bf16x2(x[7], x[6])};
}

}  // namespace dsv4::cuda
