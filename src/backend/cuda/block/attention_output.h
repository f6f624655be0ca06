// The end of attention: sums of products become the output of the op. Parts of a row's keys are added in one order, whoever computed them
// (fold()); then normalised, rotated back, converted and stored, one warp per head, through shared memory (emit_heads()).
#pragma once

#include "backend/cuda/block/quantize.h"
#include "backend/cuda/block/reduce.h"
#include "backend/cuda/block/rope.h"
#include "backend/cuda/ptx/registers.h"
#include "ops/attention.h"

namespace dsv4::cuda {

inline constexpr int kNoMaximum = -(1 << 30);  // of a part without keys

// 2^(from − to) for from ≤ to; 0 below 2^-126.
__device__ __forceinline__ float power_of_two(int from, int to) {
  const int exponent = from - to;
  return exponent < -126 ? 0.0f : __int_as_float((127 + exponent) << 23);
}

// Σ_j 2^(logit_j − maximum) over some keys, for an integer `maximum`, and with the same keys O = Σ_j 2^(logit_j − maximum)·v_j.
struct PartSum {
  int maximum = kNoMaximum;
  float total = 0.0f;
};

// What two parts are multiplied with before they are added: exact powers of two, one of them 1.
struct FoldFactors {
  float keep, gain;  // of the part before, of the part after
};

__device__ __forceinline__ float fold(float before, float after, float keep, float gain) {
  return __fmaf_rn(after, gain, __fmul_rn(before, keep));
}

// Of maxima `before` and `after`. An empty sum before is kept at 1: its O is 0.
__device__ __forceinline__ FoldFactors fold_factors(int before, int after) {
  const int maximum = max(before, after);
  return {before == kNoMaximum ? 1.0f : power_of_two(before, maximum), power_of_two(after, maximum)};
}

// sum ← sum and the part after it.
__device__ __forceinline__ FoldFactors fold(PartSum& sum, const PartSum& after) {
  const FoldFactors factors = fold_factors(sum.maximum, after.maximum);
  sum = {max(sum.maximum, after.maximum), fold(sum.total, after.total, factors.keep, factors.gain)};
  return factors;
}

// Four values of two neighbouring heads, of the first one x and z.
__device__ __forceinline__ void fold_vectors(const FoldFactors* factors, const float4& after, float4& sum) {
  const FoldFactors first = factors[0], second = factors[1];
  sum = make_float4(fold(sum.x, after.x, first.keep, first.gain), fold(sum.y, after.y, second.keep, second.gain),
                    fold(sum.z, after.z, first.keep, first.gain), fold(sum.w, after.w, second.keep, second.gain));
}

// What normalises a head, and its LSE. `sink`: times log2(e).
struct HeadSums {
  float weight;  // 1 / Σ; 0 for a row without keys, whose output is zeros
  bool has_keys;
  float lse;
};

__device__ __forceinline__ HeadSums normalise(const PartSum& sum, float sink) {
  constexpr float kLn2 = 0.693147180559945309417f;
  const float maximum = static_cast<float>(sum.maximum);
  const float denominator = sum.total + exp2f(sink - maximum);
  const float larger = fmaxf(maximum, sink);
  HeadSums sums;
  sums.weight = denominator > 0.0f ? 1.0f / denominator : 0.0f;
  sums.has_keys = sum.total > 0.0f;
  sums.lse = (larger + log2f(sum.total * exp2f(maximum - larger) + exp2f(sink - larger))) * kLn2;
  return sums;
}

// The heads of a row that a CTA works on.
struct OutputHeads {
  int row;
  int head_begin, num_heads;
};

// What the CTA knows of its heads.
template <int kHeads>
struct OutputScales {
  float weights[kHeads];
  bool has_keys[kHeads];
  Rotation rotations[kRopeDim / 2];
};

inline constexpr int kEmitHeads = 8;  // that are stored together, one per warp

// Index of an element in the fp32 buffer [kEmitHeads, kDim]. Dims are permuted by the head, so that the lanes of a wgmma fragment write to
// different banks: groups of 16 change places in every second pair of heads, neighbours in the upper half of every eight.
template <int kDim>
__device__ __forceinline__ int output_offset(int head, int dim) {
  return head * kDim + (dim ^ (head >> 1 & 1) << 4 ^ (head >> 2 & 1));
}

// Four neighbouring dims of a head.
template <int kDim>
__device__ __forceinline__ float4 load_output(const float* output, int head, int dim) {
  const float4 o = *reinterpret_cast<const float4*>(output + (output_offset<kDim>(head, dim) & ~3));
  return (head >> 2 & 1) != 0 ? make_float4(o.y, o.x, o.w, o.z) : o;
}

// Zeros for the heads.
__device__ __forceinline__ void write_padding(const AttentionParams& params, const OutputHeads& heads, int thread, int num_threads) {
  const int value_bits = params.output == AttentionOutput::kFp32   ? 32
                         : params.output == AttentionOutput::kBf16 ? 16
                         : params.output == AttentionOutput::kFp8  ? 8
                                                                   : 4;
  const int dim = params.head_dim;
  const int64_t first = static_cast<int64_t>(heads.row) * params.num_heads + heads.head_begin;
  uint4* out = reinterpret_cast<uint4*>(static_cast<uint8_t*>(params.out) + first * (dim * value_bits / 8));
  for (int i = thread; i < heads.num_heads * dim * value_bits / 128; i += num_threads) out[i] = make_uint4(0, 0, 0, 0);
  const int num_scales = value_bits == 8   ? (dim + kAttentionFp8Block - 1) / kAttentionFp8Block
                         : value_bits == 4 ? dim / kAttentionFp4Block
                                           : 0;
  for (int i = thread; i < heads.num_heads * num_scales; i += num_threads) params.out_scales[first * num_scales + i] = 0;
  if (params.lse == nullptr) return;
  for (int i = thread; i < heads.num_heads; i += num_threads) params.lse[first + i] = __int_as_float(0xff800000);
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

// Stores one of the buffer's heads, kColumns dims at a time from `dim_begin` to `dim_end`: a warp's work. `head`: counted in the CTA's
// heads.
template <int kDim, AttentionOutput kOutput, int kHeads>
__device__ __forceinline__ void emit_head(const AttentionParams& params, const OutputHeads& heads, const OutputScales<kHeads>& scales,
                                          const float* output, int head, int dim_begin, int dim_end) {
  constexpr int kColumns = 32 * 4;
  if (head >= heads.num_heads) return;
  const int64_t first = static_cast<int64_t>(heads.row) * params.num_heads + heads.head_begin + head;
  const float weight = scales.weights[head];
  const bool has_keys = scales.has_keys[head];
#pragma unroll
  for (int v = 0; v < (kDim + kColumns - 1) / kColumns; ++v) {
    const int dim = dim_begin + v * kColumns + static_cast<int>(threadIdx.x) % 32 * 4;
    if (dim_begin + v * kColumns >= dim_end) break;
    const bool inside = dim < kDim;
    const float4 sums = inside ? load_output<kDim>(output, head % kEmitHeads, dim) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    const bool rotates = dim >= kDim - kRopeDim && inside && has_keys;
    const Rotation* rotations = rotates ? scales.rotations + (dim - (kDim - kRopeDim)) / 2 : nullptr;
    float o[4] = {sums.x * weight, sums.y * weight, sums.z * weight, sums.w * weight};
    OutputStore<kDim, kOutput>::store(params, first, dim, inside, rotations, o);
  }
}

}  // namespace dsv4::cuda
