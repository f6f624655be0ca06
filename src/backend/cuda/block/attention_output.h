// The end of attention: the parts of a row's output, which the CTAs of a cluster have left in their shared memory, become the output of the
// op, one warp per head: registers → shared memory → sums in registers → output_values() → global memory.
#pragma once

#include "backend/cuda/block/quantize.h"
#include "backend/cuda/block/reduce.h"
#include "backend/cuda/block/rope.h"
#include "backend/cuda/ptx/cluster.h"
#include "backend/cuda/ptx/registers.h"
#include "ops/attention.h"

namespace dsv4::cuda {

// Which part of the output a CTA writes: every num_ranks-th head of a row's tile of heads.
struct OutputShare {
  int row;
  int head_begin, num_heads;  // of the tile
  int rank, num_ranks;
  int first_part;  // cluster rank of the CTA with the first part
  int num_parts;   // the first ranks have keys, the others only help to finish
};

inline constexpr int kMaxParts = 16;

// What a CTA knows besides O.
template <int kDim>
struct OutputPart {
  float maxima[64];              // of the logits·log2(e), integers that are not below them
  float sums[64];                // of 2^(logit − maximum)
  float sinks[64];               // times log2(e)
  float weights[kMaxParts][64];  // of the parts of this CTA's heads, normalised
  bool has_keys[64];             // of this CTA's heads
  Rotation rotations[kRopeDim / 2];
  int num_parts;
};

// Index of O's element in a part, fp32. Dims are permuted by the head, so that the lanes of a wgmma fragment write to different banks:
// groups of 16 change places in every second pair of heads, neighbours in the upper half of every eight.
template <int kDim>
__device__ __forceinline__ int part_offset(int head, int dim) {
  return head * kDim + (dim ^ (head >> 1 & 1) << 4 ^ (head >> 2 & 1));
}

// Four neighbouring dims of a head.
template <int kDim>
__device__ __forceinline__ float4 load_part(const float* part, int head, int dim) {
  return *reinterpret_cast<const float4*>(part + (part_offset<kDim>(head, dim) & ~3));
}
__device__ __forceinline__ void order_dims(int head, float4& o) {
  if ((head >> 2 & 1) != 0) o = make_float4(o.y, o.x, o.w, o.z);
}

__device__ __forceinline__ void add_part(float weight, const float4& o, float4& sum) {
  sum = make_float4(fmaf(weight, o.x, sum.x), fmaf(weight, o.y, sum.y), fmaf(weight, o.z, sum.z), fmaf(weight, o.w, sum.w));
}

// One CTA's share of zeros.
__device__ __forceinline__ void write_padding(const AttentionParams& params, const OutputShare& share, int num_threads) {
  const int value_bits = params.output == AttentionOutput::kFp32   ? 32
                         : params.output == AttentionOutput::kBf16 ? 16
                         : params.output == AttentionOutput::kFp8  ? 8
                                                                   : 4;
  const int dim = params.head_dim;
  const int64_t first = static_cast<int64_t>(share.row) * params.num_heads + share.head_begin;
  const int begin = share.rank * num_threads + static_cast<int>(threadIdx.x), stride = share.num_ranks * num_threads;
  uint4* out = reinterpret_cast<uint4*>(static_cast<uint8_t*>(params.out) + first * (dim * value_bits / 8));
  for (int i = begin; i < share.num_heads * dim * value_bits / 128; i += stride) out[i] = make_uint4(0, 0, 0, 0);
  const int num_scales = value_bits == 8   ? (dim + kAttentionFp8Block - 1) / kAttentionFp8Block
                         : value_bits == 4 ? dim / kAttentionFp4Block
                                           : 0;
  for (int i = begin; i < share.num_heads * num_scales; i += stride) params.out_scales[first * num_scales + i] = 0;
  if (params.lse == nullptr) return;
  for (int i = begin; i < share.num_heads; i += stride) params.lse[first + i] = __int_as_float(0xff800000);
}

// The end of the way: four neighbouring dims of a head, normalised but not rounded. All lanes of a warp call store() with 128 dims;
// `inside`: the dims exist. `first`: the row's head in units of heads. rotations: of the two pairs, nullptr outside the rotated dims.
template <int kDim, AttentionOutput kOutput>
struct OutputStore;

// bf(o), rotated back → bf.
__device__ __forceinline__ void round_and_rotate(const Rotation* rotations, float (&o)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) o[i] = round_to_bf16(o[i]);
  if (rotations == nullptr) return;
  rotate_back(o[0], o[1], rotations[0]);
  rotate_back(o[2], o[3], rotations[1]);
}

__device__ __forceinline__ float largest_magnitude(const float (&o)[4]) {
  return fmaxf(fmaxf(fabsf(o[0]), fabsf(o[1])), fmaxf(fabsf(o[2]), fabsf(o[3])));
}

template <int kDim>
struct OutputStore<kDim, AttentionOutput::kFp32> {
  static __device__ __forceinline__ void store(const AttentionParams& params, int64_t first, int dim, bool inside,
                                               const Rotation* rotations, float (&o)[4]) {
    if (!inside) return;
    if (rotations != nullptr) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float even = o[2 * i], odd = o[2 * i + 1];
        o[2 * i] = even * rotations[i].cos + odd * rotations[i].sin;
        o[2 * i + 1] = odd * rotations[i].cos - even * rotations[i].sin;
      }
    }
    *reinterpret_cast<float4*>(static_cast<float*>(params.out) + first * kDim + dim) = make_float4(o[0], o[1], o[2], o[3]);
  }
};

template <int kDim>
struct OutputStore<kDim, AttentionOutput::kBf16> {
  static __device__ __forceinline__ void store(const AttentionParams& params, int64_t first, int dim, bool inside,
                                               const Rotation* rotations, float (&o)[4]) {
    if (!inside) return;
    round_and_rotate(rotations, o);
    *reinterpret_cast<uint2*>(static_cast<Bf16*>(params.out) + first * kDim + dim) =
        make_uint2(ptx::convert_bf16x2(o[1], o[0]), ptx::convert_bf16x2(o[3], o[2]));
  }
};

template <int kDim>
struct OutputStore<kDim, AttentionOutput::kFp8> {
  static __device__ __forceinline__ void store(const AttentionParams& params, int64_t first, int dim, bool inside,
                                               const Rotation* rotations, float (&o)[4]) {
    constexpr int kScales = (kDim + kAttentionFp8Block - 1) / kAttentionFp8Block;
    round_and_rotate(rotations, o);
    const uint32_t scale_code = fp8_scale_code(warp_max(inside ? largest_magnitude(o) : 0.0f));
    if (!inside) return;
    const float inverse = inverse_scale(scale_code);
    const uint32_t low = ptx::convert_e4m3x2(o[1] * inverse, o[0] * inverse), high = ptx::convert_e4m3x2(o[3] * inverse, o[2] * inverse);
    *reinterpret_cast<uint32_t*>(static_cast<uint8_t*>(params.out) + first * kDim + dim) = low | high << 16;
    if (dim % kAttentionFp8Block == 0) params.out_scales[first * kScales + dim / kAttentionFp8Block] = static_cast<uint8_t>(scale_code);
  }
};

template <int kDim>
struct OutputStore<kDim, AttentionOutput::kFp4> {
  static __device__ __forceinline__ void store(const AttentionParams& params, int64_t first, int dim, bool inside,
                                               const Rotation* rotations, float (&o)[4]) {
    round_and_rotate(rotations, o);
    float amax = largest_magnitude(o);
#pragma unroll
    for (int distance = kAttentionFp4Block / 8; distance > 0; distance /= 2) {
      amax = fmaxf(amax, __shfl_xor_sync(0xffffffffu, amax, distance));
    }
    if (!inside) return;
    const uint32_t scale_code = fp4_scale_code(amax);
    const float inverse = inverse_scale(scale_code);
    uint32_t codes = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) codes |= float_to_e2m1_code(o[i] * inverse) << (4 * i);
    *reinterpret_cast<uint16_t*>(static_cast<uint8_t*>(params.out) + (first * kDim + dim) / 2) = static_cast<uint16_t>(codes);
    if (dim % kAttentionFp4Block == 0) {
      params.out_scales[first * (kDim / kAttentionFp4Block) + dim / kAttentionFp4Block] = static_cast<uint8_t>(scale_code);
    }
  }
};

// The weights of the parts of this CTA's heads, and their LSE: kMaxParts lanes per head, one per part. 0 for a part without keys.
template <int kDim>
__device__ __forceinline__ void weigh_parts(const AttentionParams& params, const OutputShare& share, OutputPart<kDim>& part, int thread,
                                            int num_threads) {
  constexpr float kLn2 = 0.693147180559945309417f;
  const int rank = thread % kMaxParts;
#pragma unroll 1
  for (int i = thread / kMaxParts; (i & ~1) * share.num_ranks + share.rank < share.num_heads; i += num_threads / kMaxParts) {  // by warps
    const int head = i * share.num_ranks + share.rank;
    const bool is_head = head < share.num_heads;
    float max = __int_as_float(0xff800000), sum = 0.0f, sink = 0.0f;
    if (is_head) sink = part.sinks[head];
    if (is_head && rank < share.num_parts) {
      const auto* from = static_cast<const OutputPart<kDim>*>(ptx::map_generic(&part, share.first_part + rank));
      max = from->maxima[head];
      sum = from->sums[head];
    }
    float largest = max;
#pragma unroll
    for (int distance = kMaxParts / 2; distance > 0; distance /= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, distance));
    }
    const float weight = exp2f(max - largest);
    sum *= weight;
#pragma unroll
    for (int distance = kMaxParts / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    const float denominator = sum + exp2f(sink - largest);  // infinite for a row without keys, whose output is zeros
    part.weights[rank][i] = denominator > 0.0f ? weight / denominator : 0.0f;
    part.has_keys[i] = sum > 0.0f;
    if (params.lse == nullptr || !is_head || rank != 0) continue;
    const float larger = fmaxf(largest, sink);
    params.lse[static_cast<int64_t>(share.row) * params.num_heads + share.head_begin + head] =
        (larger + log2f(sum * exp2f(largest - larger) + exp2f(sink - larger))) * kLn2;
  }
}

// Adds the parts in the order of the ranks for this CTA's share of the heads, one head per warp at a time, and writes the output.
// `output`: O of this CTA's part, at the same place in all CTAs. After weigh_parts() and a barrier.
template <int kDim, AttentionOutput kOutput>
__device__ __forceinline__ void finish(const AttentionParams& params, const OutputShare& share, const float* output,
                                       const OutputPart<kDim>& part, int thread, int num_warps) {
  constexpr int kColumns = 32 * 4;  // dims of a warp at a time
  constexpr int kVectors = (kDim + kColumns - 1) / kColumns;
  constexpr int kPartsAtOnce = 5;
  const int own_rank = static_cast<int>(ptx::cluster_rank());
#pragma unroll 1
  for (int i = thread / 32; i * share.num_ranks + share.rank < share.num_heads; i += num_warps) {
    const int head = i * share.num_ranks + share.rank;
    const int lane = ptx::computed_here(thread) % 32;
    float4 sums[kVectors];
#pragma unroll
    for (int v = 0; v < kVectors; ++v) sums[v] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (share.num_parts == 1 && share.first_part == own_rank) {
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        const int dim = v * kColumns + lane * 4;
        if (dim < kDim) add_part(part.weights[0][i], load_part<kDim>(output, head, dim), sums[v]);
      }
    } else {
#pragma unroll 1
      for (int begin = 0; begin < share.num_parts; begin += kPartsAtOnce) {
        float4 parts[kPartsAtOnce][kVectors];
#pragma unroll
        for (int k = 0; k < kPartsAtOnce; ++k) {
          // This CTA's own part is read as its own memory: the way through the cluster is slow.
          const int owner = share.first_part + min(begin + k, share.num_parts - 1);
          const float* from = owner == own_rank ? output : static_cast<const float*>(ptx::map_generic(output, owner));
#pragma unroll
          for (int v = 0; v < kVectors; ++v) {
            const int dim = v * kColumns + lane * 4;
            parts[k][v] =
                dim < kDim && begin + k < share.num_parts ? load_part<kDim>(from, head, dim) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
          }
        }
#pragma unroll
        for (int k = 0; k < kPartsAtOnce; ++k) {
          const float weight = part.weights[min(begin + k, kMaxParts - 1)][i];
#pragma unroll
          for (int v = 0; v < kVectors; ++v) add_part(weight, parts[k][v], sums[v]);
        }
      }
    }
    const int64_t first = static_cast<int64_t>(share.row) * params.num_heads + share.head_begin + head;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int dim = v * kColumns + lane * 4;
      const bool rotates = dim >= kDim - kRopeDim && dim < kDim && part.has_keys[i];
      const Rotation* rotations = rotates ? part.rotations + (dim - (kDim - kRopeDim)) / 2 : nullptr;
      order_dims(head, sums[v]);
      float o[4] = {sums[v].x, sums[v].y, sums[v].z, sums[v].w};
      OutputStore<kDim, kOutput>::store(params, first, dim, dim < kDim, rotations, o);
    }
  }
}

}  // namespace dsv4::cuda
