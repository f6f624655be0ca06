#include "base/printable.h"

#include <gtest/gtest.h>

#include <string>

namespace dsv4 {
namespace {

TEST(Printable, KeepsPrintableAscii) {
  EXPECT_EQ(printable(""), "");
  EXPECT_EQ(printable("layers.3.attn wq_b~"), "layers.3.attn wq_b~");
}

TEST(Printable, EscapesTheRest) {
  EXPECT_EQ(printable(std::string_view("a\nb\0c\x7f", 6)), "a\\x0ab\\x00c\\x7f");
  EXPECT_EQ(printable("é"), "\\xc3\\xa9");
}

TEST(Printable, CutsLongText) {
  EXPECT_EQ(printable(std::string(120, 'a')), std::string(120, 'a'));
  EXPECT_EQ(printable(std::string(121, 'a')), std::string(120, 'a') + "…");
  EXPECT_EQ(printable("abcdef", 3), "abc…");
}

}  // namespace
}  // namespace dsv4
