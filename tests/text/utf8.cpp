#include "text/utf8.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <utility>
#include <vector>

namespace dsv4 {
namespace {

// The code point of a sequence by arithmetic alone, -1 if the bytes are not its shortest form or no character: an independent check.
int64_t decode_one(const std::string& bytes) {
  const auto byte = [&](size_t i) { return static_cast<uint32_t>(static_cast<uint8_t>(bytes[i])); };
  uint32_t value = 0;
  if (bytes.size() == 1) return byte(0) < 0x80 ? byte(0) : -1;
  const uint32_t marks[] = {0, 0, 0xc0, 0xe0, 0xf0};
  const uint32_t masks[] = {0, 0, 0x1f, 0x0f, 0x07};
  const uint32_t lows[] = {0, 0, 0x80, 0x800, 0x10000};
  if ((byte(0) & ~masks[bytes.size()] & 0xff) != marks[bytes.size()]) return -1;
  value = byte(0) & masks[bytes.size()];
  for (size_t i = 1; i < bytes.size(); ++i) {
    if ((byte(i) & 0xc0) != 0x80) return -1;
    value = value << 6 | (byte(i) & 0x3f);
  }
  return value < lows[bytes.size()] || value > 0x10ffff || (value >= 0xd800 && value < 0xe000) ? -1 : static_cast<int64_t>(value);
}

TEST(Utf8, AppendsEveryCodePoint) {
  for (uint32_t code_point = 0; code_point <= 0x10ffff; ++code_point) {
    if (code_point >= 0xd800 && code_point < 0xe000) continue;
    std::string bytes;
    append_utf8(bytes, code_point);
    ASSERT_EQ(decode_one(bytes), code_point);
    const Utf8Step step = utf8_step(bytes, 0);
    ASSERT_EQ(step.kind, Utf8Step::Kind::kValid);
    ASSERT_EQ(step.length, bytes.size());
  }
}

TEST(Utf8, ClassifiesEveryThreeBytes) {
  // All lead bytes with continuation bytes at the bounds of their ranges.
  for (int lead = 0x80; lead < 0x100; ++lead) {
    for (int second : {0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0}) {
      for (int third : {0x20, 0x80, 0xbf, 0xff}) {
        const std::string bytes = {static_cast<char>(lead), static_cast<char>(second), static_cast<char>(third)};
        const bool two = decode_one(bytes.substr(0, 2)) >= 0;
        const bool three = decode_one(bytes) >= 0;
        const Utf8Step step = utf8_step(bytes, 0);
        EXPECT_EQ(step.kind == Utf8Step::Kind::kValid, two || three);
        if (two || three) {
          EXPECT_EQ(step.length, two ? 2u : 3u);
        }
      }
    }
  }
}

TEST(Utf8, ValidPrefixStopsAtTheFirstBadByte) {
  EXPECT_EQ(utf8_valid_prefix(""), 0u);
  EXPECT_EQ(utf8_valid_prefix("aé你🙂"), 10u);
  EXPECT_EQ(utf8_valid_prefix("ab\xc0\x80"), 2u);         // overlong
  EXPECT_EQ(utf8_valid_prefix("a\xed\xa0\x80"), 1u);      // surrogate
  EXPECT_EQ(utf8_valid_prefix("a\xf4\x90\x80\x80"), 1u);  // above U+10FFFF
  EXPECT_EQ(utf8_valid_prefix("a\xe4\xbd"), 1u);          // cut off
}

TEST(Utf8, CompletePrefixDropsOnlyACutCharacter) {
  const std::string text = "a🙂";
  EXPECT_EQ(utf8_complete_prefix(text), 5u);
  for (size_t size = 2; size < 5; ++size) EXPECT_EQ(utf8_complete_prefix(text.substr(0, size)), 1u);
  EXPECT_EQ(utf8_complete_prefix("a\xff"), 2u);  // invalid is not incomplete
  EXPECT_EQ(utf8_complete_prefix("a\x80\x80\x80\x80"), 5u);
  EXPECT_EQ(utf8_complete_prefix(""), 0u);
}

TEST(Utf8Stream, ReplacesAsPythonDoes) {
  // Right-hand sides printed by Python's bytes.decode("utf-8", "replace").
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"a\xff"
       "b",
       "a\ufffdb"},
      {"\xe4\xbd", "\ufffd"},
      {"\xe4\xbd"
       "a",
       "\ufffda"},
      {"\xf0\x9f\x99", "\ufffd"},
      {"\xf0\x9f\x99\xf0\x9f\x99\x82", "\ufffd🙂"},
      {"\xed\xa0\x80", "\ufffd\ufffd\ufffd"},
      {"\xc0\x80", "\ufffd\ufffd"},
      {"\xf4\x90\x80\x80", "\ufffd\ufffd\ufffd\ufffd"},
      {"\xe0\x9f\xbf", "\ufffd\ufffd\ufffd"},
      {"\x80\x80", "\ufffd\ufffd"},
      {"ok é", "ok é"},
  };
  for (const auto& [bytes, wanted] : cases) {
    Utf8Stream whole;
    const std::string pushed = whole.push(bytes);
    EXPECT_EQ(pushed + whole.flush(), wanted);
    Utf8Stream single;
    std::string joined;
    for (const char c : bytes) joined += single.push(std::string_view(&c, 1));
    EXPECT_EQ(joined + single.flush(), wanted);
  }
}

TEST(Utf8Stream, CutsDoNotMatterAndPiecesAreValid) {
  std::mt19937 random(3);
  for (int round = 0; round < 2000; ++round) {
    std::string bytes;
    for (int i = 0; i < 20; ++i) {
      if (random() % 2) {
        append_utf8(bytes, std::vector<uint32_t>{0x41, 0xe9, 0x4f60, 0x1f642}[random() % 4]);
      } else {
        bytes.push_back(static_cast<char>(random()));
      }
    }
    Utf8Stream whole;
    std::string wanted = whole.push(bytes);
    wanted += whole.flush();
    Utf8Stream stream;
    std::string joined;
    for (size_t position = 0; position < bytes.size();) {
      const size_t size = 1 + random() % 5;
      const std::string piece = stream.push(std::string_view(bytes).substr(position, size));
      EXPECT_EQ(utf8_valid_prefix(piece), piece.size());
      joined += piece;
      position += size;
    }
    EXPECT_EQ(joined + stream.flush(), wanted);
  }
}

}  // namespace
}  // namespace dsv4
