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

float block_amax(const float* x, int count) {
  float amax = 0.0f;
  for (int i = 0; i < count; ++i) amax = std::max(amax, std::fabs(x[i]));
  return amax;
}

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
    const float* values = x + block * kIndexerFp4Block;
    const uint8_t scale = fp4_block_scale(block_amax(values, kIndexerFp4Block));
    const float inverse = 1.0f / ue8m0_to_float(scale);
    scales[block] = scale;
    for (int i = 0; i < kIndexerFp4Block; i += 2) {
      const uint8_t low = float_to_e2m1(values[i] * inverse);
      const uint8_t high = float_to_e2m1(values[i + 1] * inverse);
      codes[(block * kIndexerFp4Block + i) / 2] = static_cast<uint8_t>(low | (high << 4));
    }
  }
}

}  // namespace dsv4::cpu
