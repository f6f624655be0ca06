// Cache entries of 64 keys in shared memory as they are stored, FP8, and the wgmma operands made of them in registers. The same bytes are
// keys (rows of S = K·Qᵀ) and values (columns of O = Vᵀ·P): both products take them as A, so that nothing is written back.
#pragma once

#include "backend/cuda/block/formats.h"
#include "backend/cuda/ptx/copy.h"
#include "backend/cuda/ptx/matrix.h"
#include "backend/cuda/ptx/mbarrier.h"
#include "ops/kv_layout.h"

namespace dsv4::cuda {

inline constexpr int kTileKeys = 64;
inline constexpr int kBlockDims = 64;  // dims under one scale, and the rotated dims

template <int kDim>
struct KeyTile {
  static constexpr int kBlocks = kDim / kBlockDims;  // the last one holds the rotated dims in bf16
  static constexpr int kFp8Blocks = kBlocks - 1;
  static constexpr int kValueBytes = static_cast<int>(KvEntryLayout{kDim}.value_bytes());
  static constexpr int kScaleBytes = static_cast<int>(KvEntryLayout{kDim}.scale_bytes());
  static constexpr int kPitch = kValueBytes + 16;  // an odd number of 16-byte units: eight rows of one column lie in all banks

  alignas(128) uint8_t entries[kTileKeys * kPitch];
  alignas(16) uint16_t factors[kFp8Blocks == 0 ? 1 : kFp8Blocks][kTileKeys];  // scales, f16, at factor_place(key)
  float bias[kTileKeys];                                                      // 0, or −∞ where there is no key
};

// The key of row `row` of S, and of Pᵀ and Vᵀ: of every eight, keys i and i + 4 are neighbours, because their entries lie 64 bytes apart
// modulo the 128 of all banks, so that a load of 64 bytes of both has no conflict.
__device__ __forceinline__ int key_of_row(int row) {
  return (row & ~7) + (row >> 1 & 3) + (row & 1) * 4;
}

// Keys q, q + 4 of all groups of eight stand together: what lane q of four needs for its columns of Vᵀ.
__device__ __forceinline__ int factor_place(int key) {
  return key % 4 * 16 + key / 8 * 2 + key % 8 / 4;
}

// A of four k16 steps.
using Fragments = uint32_t[4][4];

// Where an entry is; nullptr: none.
struct EntryPlace {
  const uint8_t* values;
  const uint8_t* scales;
};

// One thread fills place `key` and arrives at `full`, which counts 64 arrivals. A missing key is zeros with bias −∞.
template <int kDim>
__device__ __forceinline__ void fill_key(KeyTile<kDim>& tile, int key, const EntryPlace& entry, uint64_t* full) {
  using Tile = KeyTile<kDim>;
  uint8_t* place = tile.entries + key * Tile::kPitch;
  uint2 codes = make_uint2(0, 0);
  if (entry.values != nullptr) {
    ptx::mbarrier_expect_tx(full, Tile::kValueBytes);
    ptx::bulk_load(place, entry.values, Tile::kValueBytes, full);
    if constexpr (Tile::kScaleBytes == 8) {
      codes = *reinterpret_cast<const uint2*>(entry.scales);
    } else if constexpr (Tile::kScaleBytes == 4) {
      codes.x = *reinterpret_cast<const uint32_t*>(entry.scales);
    }
  } else {
#pragma unroll 4
    for (int i = 0; i < Tile::kValueBytes; i += 16) *reinterpret_cast<uint4*>(place + i) = make_uint4(0, 0, 0, 0);
    ptx::fence_async_proxy();  // a later bulk copy to the same place comes after these
  }
#pragma unroll
  for (int block = 0; block < Tile::kFp8Blocks; ++block) {
    const uint32_t code = (block < 4 ? codes.x : codes.y) >> (block % 4 * 8) & 0xff;
    tile.factors[block][factor_place(key)] = f16_scale(code);
  }
  tile.bias[key] = entry.values == nullptr ? __int_as_float(0xff800000) : 0.0f;
  ptx::mbarrier_arrive(full);
}

// What a lane reads of a block of 64 dims of its two keys, and makes fragments of later.
struct RawKeys {
  uint4 values[2];  // of rows g and g + 8 of its warp's 16: dims 16q … 16q + 15; of the rotated dims the first eight
  uint4 more[2];    // of the rotated dims the other eight
  uint32_t scales[2];
};

template <int kDim>
__device__ __forceinline__ void load_keys(const KeyTile<kDim>& tile, int block, RawKeys& raw) {
  using Tile = KeyTile<kDim>;
  const int lane = threadIdx.x % 32, q = lane % 4;
  const int first_key = key_of_row(threadIdx.x / 32 % 4 * 16 + lane / 4);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int key = first_key + 8 * half;
    const uint8_t* entry = tile.entries + key * Tile::kPitch + block * kBlockDims;
    if (block < Tile::kFp8Blocks) {
      raw.values[half] = *reinterpret_cast<const uint4*>(entry + 16 * q);
      raw.scales[half] = tile.factors[block][factor_place(key)];
    } else {
      raw.values[half] = *reinterpret_cast<const uint4*>(entry + 32 * q);
      raw.more[half] = *reinterpret_cast<const uint4*>(entry + 32 * q + 16);
    }
  }
}

// A of S [64 keys, heads] over 64 dims: four k16 steps of four of the lane's dims. Columns 2q, 2q + 1 of the fragment are the first two,
// 2q + 8, 2q + 9 the others. query_offset() puts Q in that order.
template <int kDim>
__device__ __forceinline__ void key_fragments(const RawKeys& raw, int block, Fragments& a) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint32_t words[4] = {raw.values[half].x, raw.values[half].y, raw.values[half].z, raw.values[half].w};
    if (block < KeyTile<kDim>::kFp8Blocks) {
      const uint32_t scale = raw.scales[half] * 0x10001u;
#pragma unroll
      for (int step = 0; step < 4; ++step) scaled_f16x4(words[step], scale, a[step][half], a[step][half + 2]);
    } else {
      const uint32_t more[4] = {raw.more[half].x, raw.more[half].y, raw.more[half].z, raw.more[half].w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        a[i / 2][half + i % 2 * 2] = bf16x2_to_f16x2(words[i]);
        a[2 + i / 2][half + i % 2 * 2] = bf16x2_to_f16x2(more[i]);
      }
    }
  }
}

// Byte of dims 2i, 2i + 1 of a block in a row of Q; the row is 128 bytes, not swizzled yet.
constexpr uint32_t query_offset(int i) {
  return static_cast<uint32_t>(i % 8 / 2 * 32 + i % 2 * 16 + i / 8 * 4);
}

// A of O [64 dims, heads] over 64 keys: four k16 steps, columns are keys in the order of key_of_row(). Rows g and g + 8 of a warp's 16 are
// its dims 2g and 2g + 1, in the block of rotated dims g and g + 8.
template <int kDim>
__device__ __forceinline__ void value_fragments(const KeyTile<kDim>& tile, int block, bool is_rotated, Fragments& a) {
  using Tile = KeyTile<kDim>;
  const int lane = threadIdx.x % 32, q = lane % 4, warp = threadIdx.x / 32 % 4;
  const uint32_t entries = ptx::shared_address(tile.entries) + block * kBlockDims;
  if (!is_rotated) {
    const uint32_t rows = entries + key_of_row(lane) * Tile::kPitch + warp * 16;
    const uint4* scales = reinterpret_cast<const uint4*>(&tile.factors[block][16 * q]);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t words[4];  // of groups of eight keys: dims 2g, 2g + 1 of rows 2q, 2q + 1
      ptx::load_matrices_transposed(rows + half * 32 * Tile::kPitch, words[0], words[1], words[2], words[3]);
      const uint4 four = scales[half];
      const uint32_t pairs[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        scaled_f16x4(__byte_perm(words[i], 0, 0x3120), pairs[i], a[2 * half + i / 2][i % 2 * 2], a[2 * half + i / 2][i % 2 * 2 + 1]);
      }
    }
  } else {
    const uint32_t rows = entries + key_of_row(lane / 16 * 8 + lane % 8) * Tile::kPitch + warp * 32 + lane / 8 % 2 * 16;
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      ptx::load_matrices_transposed(rows + step * 16 * Tile::kPitch, a[step][0], a[step][1], a[step][2], a[step][3]);
#pragma unroll
      for (int i = 0; i < 4; ++i) a[step][i] = bf16x2_to_f16x2(a[step][i]);
    }
  }
}

}  // namespace dsv4::cuda
