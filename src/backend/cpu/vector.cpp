#include "backend/cpu/vector.h"

#include <bit>
#include <cstring>

#include "backend/cpu/leaf.h"
#include "ops/weight.h"

namespace dsv4::cpu {
namespace {

// Asks for the memory a kilobyte on: a row tile visits its rows in turn, a chunk of columns each, too short for the hardware to see the
// next one coming. Past the end of the weight the hint has no effect; the address is never formed as a pointer into it.
DSV4_INLINE void prefetch_ahead(const void* memory) {
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(memory) + 1024));
}

// ---- Element decoders: integer vectors holding one code each (other bits clear) to fp32. Masks are made by arithmetic shifts, which every
// instruction set has, where a comparison would be lowered lane by lane.

// Subnormal codes m are 2^-6·(m/8) = 2^-6·(1 + m/8) − 2^-6: they are given the exponent of the smallest normal number, which is then
// subtracted.
template <class Int, class Float>
DSV4_INLINE void decode_e4m3(const Int& code, Float& value) {
  const Int magnitude = code & 0x7f;
  const Int subnormal = (magnitude - 8) >> 31;
  const Int nan = (0x7e - magnitude) >> 31;
  const Float normal = __builtin_bit_cast(Float, (magnitude << 20) + (120 << 23) + (subnormal & (1 << 23)));
  const Float positive = normal - __builtin_bit_cast(Float, subnormal & (121 << 23));
  value = __builtin_bit_cast(Float, __builtin_bit_cast(Int, positive) | (nan & 0x7fc00000) | ((code - magnitude) << 24));
}

// The same for e2m1, whose subnormal codes m are m/2 = (1 + m/2) − 1.
template <class Int, class Float>
DSV4_INLINE void decode_e2m1(const Int& code, Float& value) {
  const Int magnitude = code & 0x7;
  const Int subnormal = (magnitude - 2) >> 31;
  const Float normal = __builtin_bit_cast(Float, (magnitude << 22) + (126 << 23) + (subnormal & (1 << 23)));
  const Float positive = normal - __builtin_bit_cast(Float, subnormal & (127 << 23));
  value = __builtin_bit_cast(Float, __builtin_bit_cast(Int, positive) | ((code - magnitude) << 28));
}

template <class Int, class Float>
DSV4_INLINE void decode_ue8m0(const Int& code, Float& value) {
  const Int nan = ((254 - code) >> 31) & 0x00400000;
  const Int smallest = ((code - 1) >> 31) & 0x00400000;
  value = __builtin_bit_cast(Float, (code << 23) | nan | smallest);
}

// ---- Rows of weights: whole groups where they lie, then the rest from a zero-padded copy.

template <int kBytes>
DSV4_INLINE void decode_bf16_group(const Bf16* words, float* group) {
  using W = Vec<kBytes>;
  for (int part = 0; part < W::kRegisters; ++part) {
    typename W::U32 word;
    load(words + part * W::kWidth * kBf16PerWord, word);
    store(word << 16, group + part * W::kWidth);
    store(word & 0xffff0000u, group + kLanes + part * W::kWidth);
  }
}

template <int kBytes>
DSV4_INLINE void decode_bf16_row_wide(const Bf16* x, int count, float* out) {
  constexpr int kGroup = kLanes * kBf16PerWord;
  int begin = 0;
  for (; begin + kGroup <= count; begin += kGroup) decode_bf16_group<kBytes>(x + begin, out + begin);
  for (; begin < padded(count); begin += kGroup) {
    Bf16 rest[kGroup] = {};
    if (begin < count) std::memcpy(rest, x + begin, static_cast<size_t>(count - begin) * sizeof(Bf16));
    decode_bf16_group<kBytes>(rest, out + begin);
  }
}

template <int kBytes>
DSV4_INLINE void decode_fp8_group(const uint8_t* words, float scale, float* group) {
  using W = Vec<kBytes>;
  prefetch_ahead(words);
  for (int part = 0; part < W::kRegisters; ++part) {
    typename W::I32 word;
    load(words + part * kBytes, word);
    for (int e = 0; e < kFp8PerWord; ++e) {
      typename W::F32 value;
      decode_e4m3<typename W::I32, typename W::F32>((word >> (8 * e)) & 0xff, value);
      store(value * scale, group + e * kLanes + part * W::kWidth);
    }
  }
}

template <int kBytes>
DSV4_INLINE void decode_fp8_row_wide(const uint8_t* codes, const uint8_t* scales, int count, float* out) {
  constexpr int kGroup = kLanes * kFp8PerWord;
  int begin = 0;
  for (; begin + kGroup <= count; begin += kGroup) {
    decode_fp8_group<kBytes>(codes + begin, ue8m0_to_float(scales[begin / kFp8Block]), out + begin);
  }
  for (; begin < padded(count); begin += kGroup) {
    uint8_t rest[kGroup] = {};
    if (begin < count) std::memcpy(rest, codes + begin, static_cast<size_t>(count - begin));
    decode_fp8_group<kBytes>(rest, begin < count ? ue8m0_to_float(scales[begin / kFp8Block]) : 0.0f, out + begin);
  }
}

template <int kBytes>
DSV4_INLINE void decode_fp4_group(const uint8_t* words, const uint8_t* scales, float* group) {
  using W = Vec<kBytes>;
  prefetch_ahead(words);
  constexpr int kWordsPerScale = kFp4Block / kFp4PerWord;
  for (int part = 0; part < W::kRegisters; ++part) {
    typename W::I32 scale_code;
    for (int lane = 0; lane < W::kWidth; ++lane) scale_code[lane] = scales[(part * W::kWidth + lane) / kWordsPerScale];
    typename W::F32 scale;
    decode_ue8m0(scale_code, scale);
    typename W::I32 word;
    load(words + part * kBytes, word);
    for (int e = 0; e < kFp4PerWord; ++e) {
      typename W::F32 value;
      decode_e2m1<typename W::I32, typename W::F32>((word >> (4 * e)) & 0xf, value);
      store(value * scale, group + e * kLanes + part * W::kWidth);
    }
  }
}

template <int kBytes>
DSV4_INLINE void decode_fp4_row_wide(const uint8_t* codes, const uint8_t* scales, int count, float* out) {
  constexpr int kGroup = kLanes * kFp4PerWord;
  int begin = 0;
  for (; begin + kGroup <= count; begin += kGroup) decode_fp4_group<kBytes>(codes + begin / 2, scales + begin / kFp4Block, out + begin);
  if (begin < count) {
    uint8_t rest[kGroup / 2] = {};
    uint8_t rest_scales[kGroup / kFp4Block] = {};
    std::memcpy(rest, codes + begin / 2, static_cast<size_t>(count - begin) / 2);
    std::memcpy(rest_scales, scales + begin / kFp4Block, static_cast<size_t>(count - begin) / kFp4Block);
    decode_fp4_group<kBytes>(rest, rest_scales, out + begin);
  }
}

// ---- Activations. Plain loops: the compiler vectorises them for each instruction set.

template <int kBytes>
DSV4_INLINE void bf16_to_float_wide(const Bf16* x, int count, float* out) {
  for (int i = 0; i < count; ++i) out[i] = to_float(x[i]);
}

template <int kBytes>
DSV4_INLINE void fp8_to_float_wide(const uint8_t* codes, const uint8_t* scales, int count, float* out) {
  for (int begin = 0; begin < count; begin += kFp8Block) {
    const float scale = ue8m0_to_float(scales[begin / kFp8Block]);
    const int end = count - begin < kFp8Block ? count : begin + kFp8Block;
    for (int i = begin; i < end; ++i) {
      float value;
      decode_e4m3(static_cast<int32_t>(codes[i]), value);
      out[i] = value * scale;
    }
  }
}

template <int kPerWord>
DSV4_INLINE void order_groups(const float* row, int count, float* out) {
  constexpr int kGroup = kLanes * kPerWord;
  for (int begin = 0; begin < padded(count); begin += kGroup) {
    float rest[kGroup];
    const float* group = row + begin;
    if (begin + kGroup > count) {
      for (int i = 0; i < kGroup; ++i) rest[i] = begin + i < count ? row[begin + i] : 0.0f;
      group = rest;
    }
    for (int e = 0; e < kPerWord; ++e) {
      for (int word = 0; word < kLanes; ++word) out[begin + e * kLanes + word] = group[word * kPerWord + e];
    }
  }
}

template <int kBytes>
DSV4_INLINE void to_word_order_wide(const float* row, int count, int per_word, float* out) {
  if (per_word == kBf16PerWord) order_groups<kBf16PerWord>(row, count, out);
  if (per_word == kFp8PerWord) order_groups<kFp8PerWord>(row, count, out);
  if (per_word == kFp4PerWord) order_groups<kFp4PerWord>(row, count, out);
}

template <int kBytes>
DSV4_INLINE void quantize_fp8_block_wide(const Bf16* __restrict x, int count, uint8_t* __restrict codes, uint8_t* __restrict scale) {
  // The order of magnitudes is the order of their bits, which the compiler can reduce in any order; NaN is the largest and floors like
  // zero.
  uint16_t amax_bits = 0;
  for (int i = 0; i < count; ++i) {
    const uint16_t magnitude = x[i].bits & 0x7fff;
    amax_bits = amax_bits > magnitude ? amax_bits : magnitude;
  }
  const uint8_t scale_code = fp8_block_scale(to_float(Bf16{amax_bits}));
  const float inverse = 1.0f / ue8m0_to_float(scale_code);  // a power of two: multiplying by it is exact
  for (int i = 0; i < count; ++i) {
    const int32_t scaled = std::bit_cast<int32_t>(to_float(x[i]) * inverse);
    const int32_t magnitude = scaled & 0x7fffffff;
    const int32_t saturated = magnitude < 0x43e00000 ? magnitude : 0x43e00000;  // 448
    const int32_t normal = ((saturated + 0x7ffff + ((saturated >> 20) & 1)) >> 20) - (120 << 3);
    // Adding 2^14, whose last place is 2^-9, rounds to the subnormal grid; the low bits are then the code.
    const int32_t subnormal = std::bit_cast<int32_t>(std::bit_cast<float>(saturated) + 0x1p14f) & 0xf;
    const int32_t is_subnormal = (saturated - 0x3c800000) >> 31;  // below 2^-6
    const int32_t is_nan = (0x7f800000 - magnitude) >> 31;
    const int32_t finite = (subnormal & is_subnormal) | (normal & ~is_subnormal);
    codes[i] = static_cast<uint8_t>((is_nan & 0x7f) | (finite & ~is_nan) | ((scaled >> 24) & 0x80));
  }
  *scale = scale_code;
}

// ---- Dot products.

template <int kBytes, int kTokens>
DSV4_INLINE void dot_tokens(const float* w, int w_stride, const float* const* x, int count, float* sums) {
  using W = Vec<kBytes>;
  typename W::F32 lane_sums[kTokens][kRowTile][W::kRegisters];
  for (int t = 0; t < kTokens; ++t) {
    for (int r = 0; r < kRowTile; ++r) {
      for (int part = 0; part < W::kRegisters; ++part) load(sums + (t * kRowTile + r) * kLanes + part * W::kWidth, lane_sums[t][r][part]);
    }
  }
  for (int k = 0; k < count; k += kLanes) {
    for (int part = 0; part < W::kRegisters; ++part) {
      typename W::F32 row[kRowTile];
      for (int r = 0; r < kRowTile; ++r) load(w + static_cast<ptrdiff_t>(r) * w_stride + k + part * W::kWidth, row[r]);
      for (int t = 0; t < kTokens; ++t) {
        typename W::F32 token;
        load(x[t] + k + part * W::kWidth, token);
        for (int r = 0; r < kRowTile; ++r) lane_sums[t][r][part] += row[r] * token;
      }
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    for (int r = 0; r < kRowTile; ++r) {
      for (int part = 0; part < W::kRegisters; ++part) store(lane_sums[t][r][part], sums + (t * kRowTile + r) * kLanes + part * W::kWidth);
    }
  }
}

template <int kBytes>
DSV4_INLINE void dot_tile_wide(const float* w, int w_stride, const float* const* x, int num_tokens, int count, float* sums) {
  if (num_tokens == kTokenTile) {
    dot_tokens<kBytes, kTokenTile>(w, w_stride, x, count, sums);
  } else {
    dot_tokens<kBytes, 1>(w, w_stride, x, count, sums);
  }
}

}  // namespace

DSV4_LEAF(decode_bf16_row, (const Bf16* x, int count, float* out), (x, count, out))
DSV4_LEAF(decode_fp8_row, (const uint8_t* codes, const uint8_t* scales, int count, float* out), (codes, scales, count, out))
DSV4_LEAF(decode_fp4_row, (const uint8_t* codes, const uint8_t* scales, int count, float* out), (codes, scales, count, out))
DSV4_LEAF(bf16_to_float, (const Bf16* x, int count, float* out), (x, count, out))
DSV4_LEAF(fp8_to_float, (const uint8_t* codes, const uint8_t* scales, int count, float* out), (codes, scales, count, out))
DSV4_LEAF(to_word_order, (const float* row, int count, int per_word, float* out), (row, count, per_word, out))
DSV4_LEAF(quantize_fp8_block, (const Bf16* x, int count, uint8_t* codes, uint8_t* scale), (x, count, codes, scale))
DSV4_LEAF(dot_tile, (const float* w, int w_stride, const float* const* x, int num_tokens, int count, float* sums),
          (w, w_stride, x, num_tokens, count, sums))

void reduce_lanes(const float* lane_sums, float* out) {
  static_assert(kRowTile == 4 && kLanes == 16);
  using Quad = Vec<16>::F32;
  Quad row[kRowTile];  // lanes l, l+4, l+8, l+12 added
  for (int r = 0; r < kRowTile; ++r) {
    Quad part[4];
    for (int i = 0; i < 4; ++i) load(lane_sums + r * kLanes + 4 * i, part[i]);
    row[r] = (part[0] + part[2]) + (part[1] + part[3]);
  }
  // Rows 0 and 1 (2 and 3) interleaved: {row0[0]+row0[2], row1[0]+row1[2], row0[1]+row0[3], row1[1]+row1[3]}.
  const Quad low = __builtin_shufflevector(row[0], row[1], 0, 4, 1, 5) + __builtin_shufflevector(row[0], row[1], 2, 6, 3, 7);
  const Quad high = __builtin_shufflevector(row[2], row[3], 0, 4, 1, 5) + __builtin_shufflevector(row[2], row[3], 2, 6, 3, 7);
  store(__builtin_shufflevector(low, high, 0, 1, 4, 5) + __builtin_shufflevector(low, high, 2, 3, 6, 7), out);
}

}  // namespace dsv4::cpu
