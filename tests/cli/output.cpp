#include "cli/output.h"

#include <gtest/gtest.h>

namespace dsv4 {
namespace {

TEST(Output, OneLineSpellsControlCharacters) {
  EXPECT_EQ(one_line("plain é \"quoted\""), "plain é \"quoted\"");
  EXPECT_EQ(one_line("a\nb\tc"), "a\\nb\\tc");
  EXPECT_EQ(one_line(std::string("\0\x1b[2m\x7f\r", 7)), "\\x00\\x1b[2m\\x7f\\x0d");
  EXPECT_EQ(one_line(""), "");
}

}  // namespace
}  // namespace dsv4
