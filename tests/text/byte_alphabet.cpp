#include "text/byte_alphabet.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "text/utf8.h"

namespace dsv4 {
namespace {

// The alphabet as a list: printable Latin-1 first stands for itself, the rest is numbered from 256.
std::string spelling_of(int byte) {
  const auto printable = [](int b) { return (b > 32 && b < 127) || (b > 160 && b < 256 && b != 173); };
  int code_point = byte;
  if (!printable(byte)) {
    code_point = 256;
    for (int b = 0; b < byte; ++b) code_point += printable(b) ? 0 : 1;
  }
  std::string spelling;
  append_utf8(spelling, static_cast<uint32_t>(code_point));
  return spelling;
}

TEST(ByteAlphabet, SpellsEveryByte) {
  std::string all;
  std::string bytes;
  for (int byte = 0; byte < 256; ++byte) {
    EXPECT_EQ(bytes_of_alphabet(spelling_of(byte)), std::string(1, static_cast<char>(byte)));
    all += spelling_of(byte);
    bytes.push_back(static_cast<char>(byte));
  }
  EXPECT_EQ(bytes_of_alphabet(all), bytes);
}

TEST(ByteAlphabet, KnownSpellings) {
  EXPECT_EQ(bytes_of_alphabet("Ġt"), " t");
  EXPECT_EQ(bytes_of_alphabet("ĊĊ"), "\n\n");
  EXPECT_EQ(bytes_of_alphabet("ä½ł"), "你");
  EXPECT_EQ(bytes_of_alphabet(""), "");
}

TEST(ByteAlphabet, RefusesOtherCharacters) {
  for (const char* spelling : {" ", "a b", "\n", "\x7f", "\u0080", "\u00a0", "\u00ad", "\u0144", "｜", "你", "🙂"}) {
    EXPECT_EQ(bytes_of_alphabet(spelling), std::nullopt) << spelling;
  }
}

}  // namespace
}  // namespace dsv4
