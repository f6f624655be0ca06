#include "model/strict_json.h"

#include <gtest/gtest.h>

#include <string>

#include "support/error_of.h"

namespace dsv4 {
namespace {

std::string error_of_text(std::string_view text, size_t max_values = 100) {
  return test::error_of([&] { parse_strict_json(text, "f", max_values); });
}

TEST(StrictJson, ParsesWhatIsFine) {
  const auto json = parse_strict_json(R"({"a": [1, {"a": 2}], "b": {"a": "x"}})", "f", 100);
  EXPECT_EQ(json["a"][1]["a"], 2);
  EXPECT_EQ(json["b"]["a"], "x");
}

TEST(StrictJson, RefusesRepeatedKeys) {
  EXPECT_EQ(error_of_text(R"({"a": 1, "b": 2, "a": 3})"), "f: key \"a\" occurs twice");
  EXPECT_EQ(error_of_text(R"([{"b": {"a": 1, "\u0061": 2}}])"), "f: key \"a\" occurs twice");
  EXPECT_EQ(error_of_text(R"([{"a": 1}, {"a": 2}])"), "");
}

TEST(StrictJson, BoundsDepth) {
  EXPECT_EQ(error_of_text(std::string(32, '[') + std::string(32, ']')), "");
  EXPECT_EQ(error_of_text(std::string(34, '[') + std::string(34, ']')), "f: JSON nested deeper than 32");
  EXPECT_EQ(error_of_text(std::string(1000000, '[')), "f: JSON nested deeper than 32");
}

TEST(StrictJson, BoundsTheNumberOfValues) {
  EXPECT_EQ(error_of_text("[1,2,3]", 4), "");
  EXPECT_EQ(error_of_text("[1,2,3]", 3), "f: more than 3 JSON values");
  EXPECT_EQ(error_of_text("[[],[],{}]", 3), "f: more than 3 JSON values");
}

TEST(StrictJson, SaysWhereTheTextBreaks) {
  EXPECT_EQ(error_of_text(""), "f: not valid JSON at byte 1");
  EXPECT_EQ(error_of_text("{\"a\": }"), "f: not valid JSON at byte 7");
  EXPECT_EQ(error_of_text("[1] 2"), "f: not valid JSON at byte 5");
  EXPECT_EQ(error_of_text("[\"\xff\"]"), "f: not valid JSON at byte 3");
  EXPECT_EQ(error_of_text("[1e400]"), "f: a JSON number is out of range");
}

}  // namespace
}  // namespace dsv4
