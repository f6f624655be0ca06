#include "text/added_tokens.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace dsv4 {
namespace {

TEST(AddedTokenMatcher, FindsTheLeftmostThenTheLongest) {
  const AddedTokenMatcher matcher({{"<a", 1}, {"<ab>", 2}, {"b>", 3}, {"｜x｜", 4}});
  const auto match = matcher.find("__<ab>b>", 0);
  ASSERT_TRUE(match.has_value());
  EXPECT_EQ(match->position, 2u);
  EXPECT_EQ(match->length, 4u);
  EXPECT_EQ(match->id, 2);
  EXPECT_EQ(matcher.find("__<ab>b>", 6)->id, 3);
  EXPECT_EQ(matcher.find("<abc", 0)->id, 1);
  EXPECT_EQ(matcher.find("｜｜x｜", 0)->position, std::string("｜").size());
  EXPECT_FALSE(matcher.find("nothing < here", 0).has_value());
  EXPECT_FALSE(matcher.find("", 0).has_value());
}

TEST(AddedTokenMatcher, EmptySetFindsNothing) {
  EXPECT_FALSE(AddedTokenMatcher({}).find("abc", 0).has_value());
}

TEST(AddedTokenMatcher, EqualsTryingEveryTokenEverywhere) {
  std::mt19937 random(5);
  const auto random_text = [&](size_t max_size) {
    std::string text;
    for (size_t i = 1 + random() % max_size; i > 0; --i) text += "ab\xff"[random() % 3];
    return text;
  };
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::pair<std::string, int32_t>> tokens;
    for (int32_t id = 0; id < 5; ++id) {
      const std::string content = random_text(4);
      bool is_new = true;
      for (const auto& token : tokens) is_new = is_new && token.first != content;
      if (is_new) tokens.emplace_back(content, id);
    }
    const std::string text = random_text(12);
    size_t wanted_position = std::string::npos;
    std::pair<std::string, int32_t> wanted{"", -1};
    for (size_t position = 0; position < text.size() && wanted.second < 0; ++position) {
      for (const auto& token : tokens) {
        if (text.compare(position, token.first.size(), token.first) == 0 && token.first.size() > wanted.first.size()) {
          wanted = token;
          wanted_position = position;
        }
      }
    }
    const auto match = AddedTokenMatcher(tokens).find(text, 0);
    ASSERT_EQ(match.has_value(), wanted.second >= 0);
    if (!match.has_value()) continue;
    EXPECT_EQ(match->position, wanted_position);
    EXPECT_EQ(match->id, wanted.second);
  }
}

}  // namespace
}  // namespace dsv4
