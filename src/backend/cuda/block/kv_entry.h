// Making a cache entry of one row, by one warp: norm, rotation, quantisation, store (spec 2.5, 2.6, 4.2, 4.3). The lane holds chunks `lane`
// and `lane` + 32 of the row, eight values each.
#pragma once

#include "backend/cuda/block/bf16x8.h"
#include "backend/cuda/block/hadamard.h"
#include "backend/cuda/block/ordered_sum.h"
#include "backend/cuda/block/quantize.h"
#include "backend/cuda/block/rope.h"
#include "ops/kv_layout.h"

namespace dsv4::cuda {

inline constexpr int kMaxHeadDim = 512;
inline constexpr int kRopePairs = kRopeDim / 2;
inline constexpr int kRowChunks = kMaxHeadDim / (32 * kChunk);  // chunks of a lane

// Head dimensions of the caches; the entry's blocks and the rope dims are then whole groups of lanes.
constexpr bool is_head_dim(int dim) {
  return dim == 64 || dim == 128 || dim == 256 || dim == 512;
}

// Where the two parts of an entry stand.
struct EntryAddress {
  uint8_t* values;
  uint8_t* scales;
};

// Entry `entry_idx` of page `page_idx`; page_bytes = layout.page_bytes(entries_per_page), whose division is the host's work.
template <class Layout>
__device__ __forceinline__ EntryAddress entry_address(const Layout& layout, uint8_t* data, int64_t page_bytes, int page_idx,
                                                      int entries_per_page, int entry_idx) {
  uint8_t* page = data + page_idx * page_bytes;
  return {page + layout.value_offset(entry_idx), page + layout.scale_offset(entry_idx, entries_per_page)};
}

// Rotates the pairs of one chunk that belong to the rope dims, the last 64 of `dim`. rotations: [kRopePairs].
__device__ __forceinline__ void rotate_chunk(float (&x)[kChunk], int chunk, int dim, const Rotation* rotations) {
  const int rope_column = chunk * kChunk - (dim - kRopeDim);
  if (rope_column < 0) return;
#pragma unroll
  for (int i = 0; i < kChunk / 2; ++i) rotate(x[2 * i], x[2 * i + 1], rotations[rope_column / 2 + i]);
}

// x ← bf(RMS(row; weight)), then the rope dims rotated; zeros past the row's end. row [dim] and rotations [kRopePairs] are shared memory
// that the whole warp may read.
__device__ __forceinline__ void norm_and_rotate(const Bf16* row, const Bf16* weight, const Rotation* rotations, int dim, float eps,
                                                float (&x)[kRowChunks][kChunk]) {
  const float factor = rms_factor(warp_ordered_sum<true>(row, dim), dim, eps);
#pragma unroll
  for (int c = 0; c < kRowChunks; ++c) {
    const int chunk = threadIdx.x % 32 + 32 * c;
    const bool inside = chunk * kChunk < dim;
    float w[kChunk];
    unpack_bf16x8(inside ? load_chunk(row + chunk * kChunk) : uint4{}, x[c]);
    unpack_bf16x8(inside ? load_chunk(weight + chunk * kChunk) : uint4{}, w);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) x[c][i] = round_to_bf16(__fmul_rn(__fmul_rn(x[c][i], factor), w[i]));
    if (inside) rotate_chunk(x[c], chunk, dim, rotations);
  }
}

// FP8 entry: e4m3 of the nope dims in blocks of 64 (8 lanes), bf16 rope dims, scales, zero padding.
__device__ __forceinline__ void store_fp8_entry(const KvEntryLayout& layout, const float (&x)[kRowChunks][kChunk],
                                                const EntryAddress& entry) {
  const int lane = threadIdx.x % 32;
  const int nope_chunks = layout.nope_dim() / kChunk;
#pragma unroll
  for (int c = 0; c < kRowChunks; ++c) {
    const int chunk = lane + 32 * c;
    uint32_t scale_code;
    const uint2 codes = quantize_fp8x8<kKvBlock / kChunk>(x[c], scale_code);
    if (chunk < nope_chunks) {
      *reinterpret_cast<uint2*>(entry.values + chunk * kChunk) = codes;
      if (chunk % (kKvBlock / kChunk) == 0) entry.scales[chunk / (kKvBlock / kChunk)] = static_cast<uint8_t>(scale_code);
    } else if (chunk * kChunk < layout.head_dim) {
      *reinterpret_cast<uint4*>(entry.values + layout.nope_dim() + (chunk - nope_chunks) * sizeof(uint4)) = pack_bf16x8(x[c]);
    }
  }
  if (lane >= layout.num_scales() && lane < static_cast<int>(layout.scale_bytes())) entry.scales[lane] = 0;
}

// FP4 entry of the indexer: Hadamard rotation, then e2m1 in blocks of 32. index_head_dim: at most kMaxWarpHadamardDim, in the first chunks.
__device__ __forceinline__ void store_fp4_entry(const IndexEntryLayout& layout, float hadamard_scale, float (&x)[kChunk],
                                                const EntryAddress& entry) {
  const int lane = threadIdx.x % 32;
  const int num_lanes = layout.index_head_dim / kChunk;
  hadamard(x, num_lanes, hadamard_scale);
  uint32_t scale_code;
  const uint32_t codes = quantize_fp4x8(x, scale_code);
  if (lane >= num_lanes) return;
  *reinterpret_cast<uint32_t*>(entry.values + lane * sizeof(uint32_t)) = codes;
  if (lane % (kIndexerFp4Block / kChunk) == 0) entry.scales[lane / (kIndexerFp4Block / kChunk)] = static_cast<uint8_t>(scale_code);
}

}  // namespace dsv4::cuda
