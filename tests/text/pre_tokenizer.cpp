#include "text/pre_tokenizer.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace dsv4 {
namespace {

using Pieces = std::vector<std::string>;

Pieces split(std::string_view text) {
  static const PreTokenizer pre_tokenizer;
  std::vector<std::string_view> views;
  pre_tokenizer.split(text, views);
  return {views.begin(), views.end()};
}

TEST(PreTokenizer, CutsWords) {
  EXPECT_EQ(split("Hello, world!"), (Pieces{"Hello", ",", " world", "!"}));
  EXPECT_EQ(split("don't _x #tag"), (Pieces{"don", "'t", " _", "x", " #", "tag"}));
  EXPECT_EQ(split("x->y"), (Pieces{"x", "->", "y"}));
  EXPECT_EQ(split(""), Pieces{});
}

TEST(PreTokenizer, CutsNumbersInThrees) {
  EXPECT_EQ(split("1234567890"), (Pieces{"123", "456", "789", "0"}));
  EXPECT_EQ(split("v1.2"), (Pieces{"v", "1", ".", "2"}));
  EXPECT_EQ(split("٣٤٥٦Ⅷ½"), (Pieces{"٣٤٥", "٦Ⅷ½"}));
}

TEST(PreTokenizer, CutsCjkRunsFromOthers) {
  EXPECT_EQ(split("abc你好かなカナdef"), (Pieces{"abc", "你好かなカナ", "def"}));
  EXPECT_EQ(split("한국어 漢字"), (Pieces{"한국어", " ", "漢字"}));
}

TEST(PreTokenizer, WhiteSpaceLeavesOneForTheNextWord) {
  EXPECT_EQ(split("a  b   c"), (Pieces{"a", " ", " b", "  ", " c"}));
  EXPECT_EQ(split("a   "), (Pieces{"a", "   "}));
  EXPECT_EQ(split(" \n "), (Pieces{" \n", " "}));
  EXPECT_EQ(split("a\n\n  b"), (Pieces{"a", "\n\n", " ", " b"}));
  EXPECT_EQ(split("!\r\n\r\nx"), (Pieces{"!\r\n\r\n", "x"}));
}

TEST(PreTokenizer, LookAheadSeesOnlyItsPiece) {
  // The digits are cut off first, so the two spaces before them stay together.
  EXPECT_EQ(split("a  1"), (Pieces{"a", "  ", "1"}));
  EXPECT_EQ(split("a  你"), (Pieces{"a", "  ", "你"}));
}

TEST(PreTokenizer, WhiteSpaceIsUnicodes) {
  EXPECT_EQ(split("\u3000\u3000x"), (Pieces{"\u3000", "\u3000x"}));
  EXPECT_EQ(split("\u0085\u0085"), (Pieces{"\u0085\u0085"}));
  // U+180E is no white space (it was until Unicode 6.3), so it does not join the space.
  EXPECT_EQ(split(" \u180e"), (Pieces{" ", "\u180e"}));
}

TEST(PreTokenizer, KnowsCharactersOfUnicode16) {
  EXPECT_EQ(split("a\U0002ebf0"), (Pieces{"a\U0002ebf0"}));                          // a letter since 15.1
  EXPECT_EQ(split("\U00010d40\U00010d41a"), (Pieces{"\U00010d40\U00010d41", "a"}));  // digits since 16
  EXPECT_EQ(split("a\U0001fae9b"), (Pieces{"a", "\U0001fae9", "b"}));                // a symbol since 16
  EXPECT_EQ(split("a\u0897b"), (Pieces{"a\u0897b"}));                                // a mark since 16
}

TEST(PreTokenizer, ControlCharactersStandAloneOrLeadAWord) {
  EXPECT_EQ(split(std::string("\0\x01\x02", 3)), (Pieces{std::string("\0\x01\x02", 3)}));
  EXPECT_EQ(split("\x01\x02word"), (Pieces{"\x01", "\x02word"}));
}

TEST(PreTokenizer, TakesLongRuns) {
  const std::string spaces(1000000, ' ');
  EXPECT_EQ(split(spaces + "x"), (Pieces{spaces.substr(1), " x"}));
  const std::string letters(1000000, 'a');
  EXPECT_EQ(split(letters), (Pieces{letters}));
}

}  // namespace
}  // namespace dsv4
