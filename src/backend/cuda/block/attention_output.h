// The end of attention: sums of products become the output of the op. Parts of a row's keys are added in one order, whoever computed them
// (fold()); then normalised, rotated back, converted and stored (store_output()).
#pragma once

#include "backend/cuda/block/quantize.h"
#include "backend/cuda/block/rope.h"
#include "backend/cuda/ptx/exp2.h"
#include "backend/cuda/ptx/registers.h"
#include "ops/attention.h"

namespace dsv4::cuda {

inline constexpr int kNoMaximum = -(1 << 30);  // of a part without keys

// 2^(from − to), at most 2^127; 0 below 2^-126.
__device__ __forceinline__ float power_of_two(int from, int to) {
  const int exponent = from - to;
  return exponent < -126 ? 0.0f : __int_as_float((127 + exponent) << 23);
}

// Σ_j 2^(logit_j − maximum) over some keys, for an integer `maximum` near their largest logit; with the same keys
// O = Σ_j 2^(logit_j − maximum)·v_j.
struct PartSum {
  int maximum = kNoMaximum;
  float total = 0.0f;
};

// What two parts are multiplied with before they are added: exact powers of two.
struct FoldFactors {
  float keep, gain;  // of the part before, of the part after
};

__device__ __forceinline__ float fold(float before, float after, float keep, float gain) {
  return __fmaf_rn(after, gain, __fmul_rn(before, keep));
}

// How far a part may be above the sum that it is added to, in powers of two, without a change of what the sum is relative to: O, which is
// 128 registers, then is not multiplied, and fp32 has the range.
inline constexpr int kFoldSlack = 16;

// sum ← sum and the part after it. An empty sum before is kept at 1: its O is 0.
__device__ __forceinline__ FoldFactors fold(PartSum& sum, const PartSum& after) {
  const int maximum = sum.maximum + kFoldSlack < after.maximum ? after.maximum : sum.maximum;
  const FoldFactors factors = {sum.maximum == kNoMaximum ? 1.0f : power_of_two(sum.maximum, maximum), power_of_two(after.maximum, maximum)};
  sum = {maximum, fold(sum.total, after.total, factors.keep, factors.gain)};
  return factors;
}

// Values of two heads: x and y of the first, z and w of the second.
__device__ __forceinline__ void fold_vectors(const FoldFactors (&factors)[2], const float4& after, float4& sum) {
  sum = make_float4(fold(sum.x, after.x, factors[0].keep, factors[0].gain), fold(sum.y, after.y, factors[0].keep, factors[0].gain),
                    fold(sum.z, after.z, factors[1].keep, factors[1].gain), fold(sum.w, after.w, factors[1].keep, factors[1].gain));
}

// What normalises a head.
struct HeadSums {
  float weight;  // 1 / Σ; 0 for a row without keys, whose output is zeros
  bool has_keys;
};

// Σ with the sink (times log2(e)), relative to 2^maximum; ∞ where the sink is all that counts.
__device__ __forceinline__ float denominator(const PartSum& sum, float sink) {
  return sum.total + ptx::exp2_approx(sink - static_cast<float>(sum.maximum));
}

__device__ __forceinline__ HeadSums normalise(const PartSum& sum, float sink) {
  const float total = denominator(sum, sink);
  return {total > 0.0f ? __fdividef(1.0f, total) : 0.0f, sum.total > 0.0f};
}

__device__ __forceinline__ float log_sum_exp(const PartSum& sum, float sink) {
  constexpr float kLn2 = 0.693147180559945309417f, kFarAbove = 100.0f;  // the rest is below the last bit
  const float maximum = static_cast<float>(sum.maximum);
  return (sink - maximum > kFarAbove ? sink : maximum + log2f(denominator(sum, sink))) * kLn2;
}

// The heads of a row that a CTA works on.
struct OutputHeads {
  int row;
  int16_t head_begin, num_heads;
};

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

// Vectors of four neighbouring dims, 16 dims apart, that a lane holds of a head and stores at once, and with the three other lanes of its
// quad all dims in between: what shares a scale, or one vector.
template <int kDim, AttentionOutput kOutput>
inline constexpr int kOutputVectors = kOutput == AttentionOutput::kFp8   ? (kDim < kAttentionFp8Block ? kDim : kAttentionFp8Block) / 16
                                      : kOutput == AttentionOutput::kFp4 ? kAttentionFp4Block / 16
                                                                         : 1;

// bf(o), rotated back → bf.
__device__ __forceinline__ void round_and_rotate(const Rotation* rotations, float (&o)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) o[i] = round_to_bf16(o[i]);
  if (rotations == nullptr) return;
  rotate_back(o[0], o[1], rotations[0]);
  rotate_back(o[2], o[3], rotations[1]);
}

// The largest magnitude of the quad's vectors.
template <int kVectors>
__device__ __forceinline__ float quad_amax(const float (&o)[kVectors][4]) {
  float amax = 0.0f;
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
#pragma unroll
    for (int i = 0; i < 4; ++i) amax = fmaxf(amax, fabsf(o[v][i]));
  }
  amax = fmaxf(amax, __shfl_xor_sync(0xffffffffu, amax, 1));
  return fmaxf(amax, __shfl_xor_sync(0xffffffffu, amax, 2));
}

// The end of the way, normalised but not rounded: o[v] are dims `dim` + 16v … + 3 of a head, dim = 4·(lane % 4) modulo 16. All lanes of a
// warp call it; `valid`: not 0: the head exists. `head`: the row's head in units of heads. rotations: all pairs; used for the rotated dims
// of heads that have keys.
template <int kDim, AttentionOutput kOutput>
__device__ __forceinline__ void store_output(const AttentionParams& params, int64_t head, int dim, int valid, bool has_keys,
                                             const Rotation* rotations, float (&o)[kOutputVectors<kDim, kOutput>][4]) {
  constexpr int kVectors = kOutputVectors<kDim, kOutput>;
  uint8_t* out = static_cast<uint8_t*>(params.out);
  const auto rotations_of = [&](int v) {
    const int rotated = dim + 16 * v - (kDim - kRopeDim);
    return rotated >= 0 && has_keys ? rotations + rotated / 2 : nullptr;
  };
#pragma unroll
  for (int v = 0; v < kVectors && kOutput != AttentionOutput::kFp32; ++v) round_and_rotate(rotations_of(v), o[v]);
  if constexpr (kOutput == AttentionOutput::kFp32) {
    const Rotation* pair = rotations_of(0);
#pragma unroll
    for (int i = 0; i < 2 && pair != nullptr; ++i) {
      const float even = o[0][2 * i], odd = o[0][2 * i + 1];
      o[0][2 * i] = even * pair[i].cos + odd * pair[i].sin;
      o[0][2 * i + 1] = odd * pair[i].cos - even * pair[i].sin;
    }
    if (valid) *reinterpret_cast<float4*>(out + (head * kDim + dim) * 4) = make_float4(o[0][0], o[0][1], o[0][2], o[0][3]);
  } else if constexpr (kOutput == AttentionOutput::kBf16) {
    if (!valid) return;
    *reinterpret_cast<uint2*>(out + (head * kDim + dim) * 2) =
        make_uint2(ptx::convert_bf16x2(o[0][1], o[0][0]), ptx::convert_bf16x2(o[0][3], o[0][2]));
  } else if constexpr (kOutput == AttentionOutput::kFp8) {
    const uint32_t scale_code = fp8_scale_code(quad_amax(o));
    const float inverse = inverse_scale(scale_code);
    if (!valid) return;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const uint32_t low = ptx::convert_e4m3x2(o[v][1] * inverse, o[v][0] * inverse);
      const uint32_t high = ptx::convert_e4m3x2(o[v][3] * inverse, o[v][2] * inverse);
      *reinterpret_cast<uint32_t*>(out + head * kDim + dim + 16 * v) = low | high << 16;
    }
    constexpr int kScales = (kDim + kAttentionFp8Block - 1) / kAttentionFp8Block;
    if (dim % 16 == 0) params.out_scales[head * kScales + dim / kAttentionFp8Block] = static_cast<uint8_t>(scale_code);
  } else if constexpr (kOutput == AttentionOutput::kFp4) {
    const uint32_t scale_code = fp4_scale_code(quad_amax(o));
    const float inverse = inverse_scale(scale_code);
    if (!valid) return;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      uint32_t codes = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) codes |= float_to_e2m1_code(o[v][i] * inverse) << (4 * i);
      *reinterpret_cast<uint16_t*>(out + (head * kDim + dim + 16 * v) / 2) = static_cast<uint16_t>(codes);
    }
    if (dim % 16 == 0) {
      params.out_scales[head * (kDim / kAttentionFp4Block) + dim / kAttentionFp4Block] = static_cast<uint8_t>(scale_code);
    }
  }
}

}  // namespace dsv4::cuda
