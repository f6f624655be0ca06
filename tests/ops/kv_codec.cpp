#include "backend/cpu/kv_codec.h"

#include <gtest/gtest.h>

#include <limits>

#include "support/compare.h"
#include "support/random_data.h"
#include "support/reference.h"

namespace dsv4 {
namespace {

TEST(KvCodec, Fp8EntryBytes) {
  const KvEntryLayout layout{128};
  std::vector<float> x(128, 0.0f);
  x[0] = 448.0f;  // block maximum: scale 2^0
  x[1] = -1.0f;
  x[2] = 0x1p-9f;    // smallest subnormal
  x[3] = 17.0f;      // halfway between 16 and 18: even mantissa wins
  x[4] = -0x1p-20f;  // rounds to −0
  x[64] = 1.0f;
  x[127] = -2.5f;
  std::vector<uint8_t> bytes(layout.entry_bytes(), 0xee);
  cpu::pack_kv_entry(layout, x.data(), {bytes.data(), bytes.data() + layout.value_bytes()});
  EXPECT_EQ(bytes[0], 0x7e);
  EXPECT_EQ(bytes[1], 0xb8);
  EXPECT_EQ(bytes[2], 0x01);
  EXPECT_EQ(bytes[3], 0x58);
  EXPECT_EQ(bytes[4], 0x80);
  for (int i = 5; i < 64; ++i) EXPECT_EQ(bytes[i], 0) << i;
  EXPECT_EQ(bytes[64], 0x80);  // bf16 1.0 is 0x3f80, low byte first
  EXPECT_EQ(bytes[65], 0x3f);
  EXPECT_EQ(bytes[190], 0x20);  // bf16 −2.5 is 0xc020
  EXPECT_EQ(bytes[191], 0xc0);
  EXPECT_EQ(bytes[192], 127);
  for (int i = 193; i < 196; ++i) EXPECT_EQ(bytes[i], 0) << "padding " << i;
}

TEST(KvCodec, ScaleIsTheNextPowerOfTwo) {
  const KvEntryLayout layout{128};
  const std::pair<float, uint8_t> cases[] = {{0.0f, 105}, {1e-4f, 105}, {448.0f, 127}, {450.0f, 128}, {224.0f, 126}, {1.0f, 119}};
  for (const auto& [amax, code] : cases) {
    std::vector<float> x(128, 0.0f);
    x[63] = -round_bf16(amax);
    std::vector<uint8_t> bytes(layout.entry_bytes());
    cpu::pack_kv_entry(layout, x.data(), {bytes.data(), bytes.data() + layout.value_bytes()});
    EXPECT_EQ(bytes[layout.value_bytes()], code) << "amax " << amax;
  }
}

TEST(KvCodec, Fp8DecodesEveryCode) {
  const KvEntryLayout layout{320};
  for (const uint8_t scale : {uint8_t{105}, uint8_t{127}, uint8_t{140}}) {
    std::vector<uint8_t> bytes(layout.entry_bytes(), 0);
    for (int code = 0; code < 256; ++code) bytes[code] = static_cast<uint8_t>(code);
    std::fill_n(bytes.begin() + static_cast<ptrdiff_t>(layout.value_bytes()), 4, scale);
    std::vector<float> x(320);
    cpu::unpack_kv_entry(layout, {bytes.data(), bytes.data() + layout.value_bytes()}, x.data());
    for (int code = 0; code < 256; ++code) {
      const float expected = e4m3_to_float(static_cast<uint8_t>(code)) * ue8m0_to_float(scale);
      if (std::isnan(expected)) {
        EXPECT_TRUE(std::isnan(x[code])) << "code " << code;
      } else {
        EXPECT_EQ(std::bit_cast<uint32_t>(x[code]), std::bit_cast<uint32_t>(expected)) << "code " << code;
      }
    }
  }
}

TEST(KvCodec, Fp8RoundTripIsTheSimulation) {
  test::Random random(1);
  for (const int head_dim : {64, 128, 256, 512}) {
    const KvEntryLayout layout{head_dim};
    for (const float stddev : {1e-6f, 1.0f, 1e4f}) {
      const std::vector<Bf16> input = test::random_bf16(random, head_dim, stddev);
      const std::vector<float> x = test::to_floats(input.data(), head_dim);
      // Behind the entry stands a byte that nobody may write.
      std::vector<uint8_t> bytes(layout.entry_bytes() + 1, 0xee);
      const cpu::EntryBytes entry{bytes.data(), bytes.data() + layout.value_bytes()};
      cpu::pack_kv_entry(layout, x.data(), entry);
      EXPECT_EQ(bytes.back(), 0xee);
      std::vector<float> decoded(head_dim);
      cpu::unpack_kv_entry(layout, entry, decoded.data());
      EXPECT_TRUE(test::same_bytes(decoded, test::reference_fp8_entry(x))) << "head_dim " << head_dim << ", stddev " << stddev;
      EXPECT_EQ(decoded, test::read_fp8_entry(head_dim, bytes.data(), 1, 0));

      // What was simulated once is stored without loss.
      std::vector<uint8_t> again(bytes.size(), 0xee);
      cpu::pack_kv_entry(layout, decoded.data(), {again.data(), again.data() + layout.value_bytes()});
      std::vector<float> decoded_again(head_dim);
      cpu::unpack_kv_entry(layout, {again.data(), again.data() + layout.value_bytes()}, decoded_again.data());
      EXPECT_EQ(decoded_again, decoded);
    }
  }
}

TEST(KvCodec, EntriesOfAPage) {
  const KvEntryLayout layout{512};
  std::vector<uint8_t> cache(4 * 37440);
  const cpu::EntryBytes entry = cpu::entry_bytes(layout, cache.data(), 3, 64, 5);
  EXPECT_EQ(entry.values - cache.data(), 3 * 37440 + 5 * 576);
  EXPECT_EQ(entry.scales - cache.data(), 3 * 37440 + 64 * 576 + 5 * 8);
  const cpu::EntryBytes index_entry = cpu::entry_bytes(IndexEntryLayout{128}, cache.data(), 2, 64, 63);
  EXPECT_EQ(index_entry.values - cache.data(), 2 * 4352 + 63 * 64);
  EXPECT_EQ(index_entry.scales - cache.data(), 2 * 4352 + 64 * 64 + 63 * 4);
}

TEST(KvCodec, Fp4RowBytes) {
  std::vector<float> x(64, 0.0f);
  // Scale 2^0; ties go to the even code.
  const float values[] = {6.0f, 0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f, -6.0f, -0.25f, 0.5f, 4.0f, -0.26f, 5.1f, -1.0f, 3.0f};
  const uint8_t codes[] = {7, 0, 2, 2, 4, 4, 6, 6, 15, 8, 1, 6, 9, 7, 10, 5};
  for (int i = 0; i < 16; ++i) x[i] = values[i];
  uint8_t bytes[32], scales[2];
  cpu::pack_fp4_row(64, x.data(), bytes, scales);
  EXPECT_EQ(scales[0], 127);
  EXPECT_EQ(scales[1], 1);  // all zero: the floor 6·2^-126
  for (int i = 0; i < 8; ++i) EXPECT_EQ(bytes[i], codes[2 * i] | (codes[2 * i + 1] << 4)) << "byte " << i;
  for (int i = 8; i < 32; ++i) EXPECT_EQ(bytes[i], 0) << "byte " << i;
}

TEST(KvCodec, Fp4CodesOfEveryBf16Value) {
  // With the maximum 6 the scale is 1, and every code is that of the value itself.
  for (int sign = 0; sign <= 0x8000; sign += 0x8000) {
    for (int bits = 0; bits <= to_bf16(6.0f).bits; bits += 31) {
      std::vector<float> x(32, 6.0f);
      for (int i = 0; i < 31; ++i) x[i] = to_float(Bf16{static_cast<uint16_t>(sign | std::min<int>(bits + i, to_bf16(6.0f).bits))});
      uint8_t codes[16], scale;
      cpu::pack_fp4_row(32, x.data(), codes, &scale);
      ASSERT_EQ(scale, 127);
      for (int i = 0; i < 32; ++i) ASSERT_EQ((codes[i / 2] >> (4 * (i % 2))) & 15, float_to_e2m1(x[i])) << x[i];
    }
  }
}

TEST(KvCodec, Fp4RoundTripIsTheSimulation) {
  test::Random random(2);
  for (const int dim : {32, 64, 128}) {
    for (const float stddev : {1e-30f, 0.3f, 1e5f}) {
      const std::vector<Bf16> input = test::random_bf16(random, dim, stddev);
      const std::vector<float> x = test::to_floats(input.data(), dim);
      std::vector<uint8_t> codes(dim / 2), scales(dim / 32);
      cpu::pack_fp4_row(dim, x.data(), codes.data(), scales.data());
      EXPECT_TRUE(test::same_bytes(test::read_fp4_values(dim, codes.data(), scales.data()), test::reference_fp4(x)));
    }
  }
}

TEST(KvCodec, TwiceE2M1IsTwiceTheValue) {
  for (int code = 0; code < 16; ++code) EXPECT_EQ(cpu::kTwiceE2M1[code], 2.0f * e2m1_to_float(static_cast<uint8_t>(code)));
}

}  // namespace
}  // namespace dsv4
