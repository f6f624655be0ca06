#include "text/token_table.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace dsv4 {
namespace {

TEST(TokenTable, FindsWhatItHolds) {
  std::vector<std::string> tokens;
  for (int i = 0; i < 5000; ++i) tokens.push_back("token" + std::to_string(i * 7919));
  const TokenTable table(tokens);
  ASSERT_EQ(table.size(), 5000);
  for (int32_t id = 0; id < table.size(); ++id) {
    EXPECT_EQ(table[id], tokens[static_cast<size_t>(id)]);
    EXPECT_EQ(table.find(table[id]), id);
  }
  EXPECT_EQ(table.find("token1"), -1);
  EXPECT_EQ(table.find(""), -1);
}

TEST(TokenTable, RepeatedStringsGiveTheLowestId) {
  const TokenTable table({"a", std::string("\0x", 2), "a", ""});
  EXPECT_EQ(table.find("a"), 0);
  EXPECT_EQ(table.find(std::string("\0x", 2)), 1);
  EXPECT_EQ(table.find(""), 3);
}

TEST(TokenTable, EmptyTableFindsNothing) {
  EXPECT_EQ(TokenTable().size(), 0);
  EXPECT_EQ(TokenTable().find("a"), -1);
}

}  // namespace
}  // namespace dsv4
