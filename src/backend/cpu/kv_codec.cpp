#include "backend/cpu/kv_codec.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "backend/cpu/leaf.h"
#include "backend/cpu/vector.h"
#include "base/dtype.h"

namespace dsv4::cpu {
namespace {

// e4m3 codes (one byte in each lane) times scale. Sign and magnitude are moved to where fp32 has them; the exponent is then too small by
// 120, which the multiplication by 2^120 makes good for normal and subnormal codes alike, exactly. Magnitude 0x7f becomes NaN.
template <int kBytes>
DSV4_INLINE void decode_e4m3_lanes(const typename Vec<kBytes>::I32& codes, float scale, typename Vec<kBytes>::F32& values) {
  using V = Vec<kBytes>;
  const typename V::I32 bits = ((codes << 24) >> 4) & static_cast<int32_t>(0x87f00000u);
  const typename V::I32 nan = ((bits + 0x00100000) << 4) >> 31;
  values = reinterpret_cast<typename V::F32>(bits | (nan & 0x7f800000)) * 0x1p120f * scale;
}

template <int kBytes>
DSV4_INLINE void decode_entry_wide(const uint8_t* values, const uint8_t* scales, int num_blocks, float* x) {
  using V = Vec<kBytes>;
  for (int block = 0; block < num_blocks; ++block) {
    const float scale = ue8m0_to_float(scales[block]);
    for (int i = 0; i < kKvBlock; i += V::kWidth) {
      typename V::QuarterU8 codes;
      typename V::F32 decoded;
      load(values + i, codes);
      decode_e4m3_lanes<kBytes>(__builtin_convertvector(codes, typename V::I32), scale, decoded);
      store(decoded, x + i);
    }
    values += kKvBlock;
    x += kKvBlock;
  }
  for (int i = 0; i < kRopeDim; ++i) {
    uint16_t bits;
    std::memcpy(&bits, values + i * sizeof bits, sizeof bits);
    x[i] = std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  }
}

DSV4_LEAF(decode_entry, (const uint8_t* values, const uint8_t* scales, int num_blocks, float* x), (values, scales, num_blocks, x))

// One block of 32 values to e2m1 pairs and their scale. The code is the number of rounding boundaries at or below the magnitude: a tie goes
// to the even code, so every other boundary belongs to the value above it. NaN becomes 6, as in float_to_e2m1.
template <int kBytes>
DSV4_INLINE void pack_fp4_block_wide(const float* x, uint8_t* codes, uint8_t* scale) {
  // Magnitudes are ordered like their bits, whose maximum the compiler may take in any order.
  int32_t amax_bits = 0;
  for (int i = 0; i < kIndexerFp4Block; ++i) amax_bits = std::max(amax_bits, std::bit_cast<int32_t>(x[i]) & 0x7fffffff);
  *scale = fp4_block_scale(std::bit_cast<float>(amax_bits));
  const float inverse = 1.0f / ue8m0_to_float(*scale);  // a power of two: multiplying by it is exact
  int32_t wide_codes[kIndexerFp4Block];
  for (int i = 0; i < kIndexerFp4Block; ++i) {
    const float magnitude = std::fabs(x[i] * inverse);
    const int32_t code = !(magnitude <= 0.25f) + !(magnitude < 0.75f) + !(magnitude <= 1.25f) + !(magnitude < 1.75f) +
                         !(magnitude <= 2.5f) + !(magnitude < 3.5f) + !(magnitude <= 5.0f);
    const int32_t sign = (std::bit_cast<int32_t>(x[i]) >> 28) & 8;
    wide_codes[i] = code | (magnitude == magnitude ? sign : 0);
  }
  for (int i = 0; i < kIndexerFp4Block / 2; ++i) codes[i] = static_cast<uint8_t>(wide_codes[2 * i] | (wide_codes[2 * i + 1] << 4));
}

DSV4_LEAF(pack_fp4_block, (const float* x, uint8_t* codes, uint8_t* scale), (x, codes, scale))

}  // namespace

void pack_kv_entry(const KvEntryLayout& layout, const float* x, EntryBytes entry) {
  std::memset(entry.scales, 0, layout.scale_bytes());
  for (int block = 0; block < layout.num_scales(); ++block) {
    Bf16 values[kKvBlock];
    for (int i = 0; i < kKvBlock; ++i) values[i] = to_bf16(x[block * kKvBlock + i]);
    quantize_fp8_block(values, kKvBlock, entry.values + block * kKvBlock, entry.scales + block);
  }
  for (int i = 0; i < kRopeDim; ++i) {
    const Bf16 value = to_bf16(x[layout.nope_dim() + i]);
    std::memcpy(entry.values + layout.nope_dim() + i * sizeof(Bf16), &value, sizeof(Bf16));
  }
}

void unpack_kv_entry(const KvEntryLayout& layout, EntryBytes entry, float* x) {
  decode_entry(entry.values, entry.scales, layout.num_scales(), x);
}

void pack_fp4_row(int dim, const float* x, uint8_t* codes, uint8_t* scales) {
  for (int block = 0; block < dim / kIndexerFp4Block; ++block) {
    pack_fp4_block(x + block * kIndexerFp4Block, codes + block * kIndexerFp4Block / 2, scales + block);
  }
}

}  // namespace dsv4::cpu
