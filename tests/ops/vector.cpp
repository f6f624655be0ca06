#include "backend/cpu/vector.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "support/compare.h"
#include "support/matrices.h"

namespace dsv4::cpu {
namespace {

// Where element i of a row stands in the word order of `per_word` codes, as vector.h defines it.
int word_position(int i, int per_word) {
  const int group = kLanes * per_word;
  return i / group * group + i % per_word * kLanes + i % group / per_word;
}

// Equal bits, or both NaN: the decoders keep NaN, not its payload.
bool same_value(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b) || (std::isnan(a) && std::isnan(b));
}

// A decoded row holds natural[i] for i < count and +0 in the padding; the guard behind it stays.
void expect_row(const std::vector<float>& out, const std::vector<float>& natural, int per_word) {
  const int count = static_cast<int>(natural.size());
  for (int i = 0; i < padded(count); ++i) {
    const float expected = i < count ? natural[i] : 0.0f;
    const float actual = out[word_position(i, per_word)];
    ASSERT_TRUE(same_value(actual, expected)) << "element " << i << " of " << count << ": " << actual << ", expected " << expected;
  }
  for (size_t i = padded(count); i < out.size(); ++i) ASSERT_EQ(out[i], -77.0f) << "wrote past the padded row";
}

std::vector<float> guarded(int count) {
  return std::vector<float>(static_cast<size_t>(padded(count)) + 16, -77.0f);
}

const int kCounts[] = {1, 8, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 160, 191, 192, 256, 300, 1024};

TEST(Vector, DecodeFp8RowAllCodes) {
  std::vector<uint8_t> codes(256);
  for (int i = 0; i < 256; ++i) codes[i] = static_cast<uint8_t>(i);
  for (const int low : {0, 1, 105, 126, 127, 130}) {
    const std::vector<uint8_t> scales = {static_cast<uint8_t>(low), static_cast<uint8_t>(low + 1)};
    std::vector<float> natural(256), out = guarded(256), plain(256);
    for (int i = 0; i < 256; ++i) natural[i] = e4m3_to_float(codes[i]) * ue8m0_to_float(scales[i / 128]);
    decode_fp8_row(codes.data(), scales.data(), 256, out.data());
    expect_row(out, natural, kFp8PerWord);
    fp8_to_float(codes.data(), scales.data(), 256, plain.data());
    for (int i = 0; i < 256; ++i) EXPECT_TRUE(same_value(plain[i], natural[i])) << i;
  }
}

TEST(Vector, DecodeFp8RowAnyLength) {
  test::Random random(3);
  for (const int count : kCounts) {
    const auto codes = test::random_e4m3(random, count);
    const auto scales = test::random_ue8m0(random, ceil_div(count, 128));
    std::vector<float> natural(count), out = guarded(count), plain(count);
    for (int i = 0; i < count; ++i) natural[i] = e4m3_to_float(codes[i]) * ue8m0_to_float(scales[i / 128]);
    decode_fp8_row(codes.data(), scales.data(), count, out.data());
    expect_row(out, natural, kFp8PerWord);
    fp8_to_float(codes.data(), scales.data(), count, plain.data());
    EXPECT_TRUE(test::same_bytes(plain, natural)) << count;
  }
}

TEST(Vector, DecodeFp4RowAllPairsAndScales) {
  // Every byte under every scale code but NaN; rows of 512 columns hold all bytes once.
  for (int scale = 0; scale < 255; ++scale) {
    std::vector<uint8_t> codes(256), scales(16);
    for (int i = 0; i < 256; ++i) codes[i] = static_cast<uint8_t>(i);
    for (int i = 0; i < 16; ++i) scales[i] = static_cast<uint8_t>((scale + i) % 255);
    std::vector<float> natural(512), out = guarded(512);
    for (int i = 0; i < 512; ++i) {
      const int code = i % 2 == 0 ? codes[i / 2] & 0xf : codes[i / 2] >> 4;
      natural[i] = e2m1_to_float(static_cast<uint8_t>(code)) * ue8m0_to_float(scales[i / 32]);
    }
    decode_fp4_row(codes.data(), scales.data(), 512, out.data());
    expect_row(out, natural, kFp4PerWord);
  }
}

TEST(Vector, DecodeFp4RowAnyLengthAndNanScale) {
  test::Random random(4);
  for (const int count : {32, 64, 96, 128, 160, 224, 256, 1024}) {
    const auto codes = test::random_bytes(random, count / 2);
    auto scales = test::random_ue8m0(random, count / 32);
    std::vector<float> natural(count), out = guarded(count);
    for (int i = 0; i < count; ++i) {
      natural[i] =
          e2m1_to_float(static_cast<uint8_t>(i % 2 == 0 ? codes[i / 2] & 0xf : codes[i / 2] >> 4)) * ue8m0_to_float(scales[i / 32]);
    }
    decode_fp4_row(codes.data(), scales.data(), count, out.data());
    expect_row(out, natural, kFp4PerWord);
    scales.back() = 255;
    decode_fp4_row(codes.data(), scales.data(), count, out.data());
    for (int i = 0; i < count; ++i) EXPECT_EQ(std::isnan(out[word_position(i, kFp4PerWord)]), i >= count - 32);
  }
}

TEST(Vector, DecodeBf16RowAnyLength) {
  test::Random random(5);
  for (const int count : kCounts) {
    const auto x = test::random_bf16(random, count);
    std::vector<float> natural(count), out = guarded(count), plain(count);
    for (int i = 0; i < count; ++i) natural[i] = to_float(x[i]);
    decode_bf16_row(x.data(), count, out.data());
    expect_row(out, natural, kBf16PerWord);
    bf16_to_float(x.data(), count, plain.data());
    EXPECT_TRUE(test::same_bytes(plain, natural)) << count;
  }
}

TEST(Vector, ToWordOrder) {
  test::Random random(6);
  for (const int count : kCounts) {
    const auto row = test::random_floats(random, count);
    for (const int per_word : {kBf16PerWord, kFp8PerWord, kFp4PerWord}) {
      std::vector<float> out = guarded(count);
      to_word_order(row.data(), count, per_word, out.data());
      expect_row(out, row, per_word);
    }
  }
}

// Every version of the leaf, on any processor, must give exactly these sums.
TEST(Vector, DotTileSumsLanesInAscendingOrder) {
  test::Random random(7);
  for (const int count : {16, 128, 1024}) {
    const int stride = count + 32;
    const auto w = test::random_floats(random, static_cast<size_t>(kRowTile) * stride);
    const auto x = test::random_floats(random, static_cast<size_t>(kTokenTile) * count);
    const float* rows[kTokenTile];
    for (int t = 0; t < kTokenTile; ++t) rows[t] = x.data() + static_cast<size_t>(t) * count;
    for (const int num_tokens : {1, kTokenTile}) {
      std::vector<float> sums = test::random_floats(random, static_cast<size_t>(num_tokens) * kRowTile * kLanes);
      std::vector<float> expected = sums;
      for (int t = 0; t < num_tokens; ++t) {
        for (int r = 0; r < kRowTile; ++r) {
          for (int k = 0; k < count; ++k) {
            const float product = w[static_cast<size_t>(r) * stride + k] * rows[t][k];
            expected[(t * kRowTile + r) * kLanes + k % kLanes] += product;
          }
        }
      }
      dot_tile(w.data(), stride, rows, num_tokens, count, sums.data());
      EXPECT_TRUE(test::same_bytes(sums, expected)) << count << " columns, " << num_tokens << " tokens";
    }
  }
}

TEST(Vector, ReduceLanesAddsEachRow) {
  test::Random random(8);
  const auto lanes = test::random_floats(random, kRowTile * kLanes);
  float out[kRowTile];
  reduce_lanes(lanes.data(), out);
  for (int r = 0; r < kRowTile; ++r) {
    double sum = 0.0, magnitude = 0.0;
    for (int l = 0; l < kLanes; ++l) {
      sum += lanes[r * kLanes + l];
      magnitude += std::fabs(lanes[r * kLanes + l]);
    }
    EXPECT_TRUE(test::close_to(out[r], sum, magnitude * 4 * 0x1p-24)) << r;
  }
}

TEST(Vector, ReduceLanesDoesNotDependOnTheRowsPlace) {
  test::Random random(9);
  const auto lanes = test::random_floats(random, kLanes);
  std::vector<float> rows;
  for (int r = 0; r < kRowTile; ++r) rows.insert(rows.end(), lanes.begin(), lanes.end());
  float out[kRowTile];
  reduce_lanes(rows.data(), out);
  for (int r = 1; r < kRowTile; ++r) EXPECT_EQ(std::bit_cast<uint32_t>(out[r]), std::bit_cast<uint32_t>(out[0]));
}

}  // namespace
}  // namespace dsv4::cpu
