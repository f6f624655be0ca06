#include "text/json.h"

#include <gtest/gtest.h>

#include <bit>
#include <charconv>
#include <cmath>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"

namespace dsv4 {
namespace {

std::string round_trip(std::string_view text) {
  return Json::parse(text).dump();
}

TEST(Json, WritesPythonsForm) {
  EXPECT_EQ(round_trip(" {\"b\":1,\t\"a\":[true,false,null,{}],\r\n\"c\":[]} "), R"({"b": 1, "a": [true, false, null, {}], "c": []})");
  EXPECT_EQ(round_trip(R"("\u00e9\u4f60\/\u007f\ud83d\ude42")"), "\"é你/\x7f🙂\"");
  EXPECT_EQ(round_trip(R"("\"\\\b\f\n\r\t\u0000\u001f")"), R"("\"\\\b\f\n\r\t\u0000\u001f")");
}

TEST(Json, KeepsIntegersAsWritten) {
  EXPECT_EQ(round_trip("1000000000000000000000000000000"), "1000000000000000000000000000000");
  EXPECT_EQ(round_trip("-7"), "-7");
  EXPECT_EQ(round_trip("-0"), "0");  // Python's int has no negative zero
}

TEST(Json, WritesFloatsAsPythonDoes) {
  // Right-hand sides printed by Python's json.dumps.
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"2.50", "2.5"},
      {"1e5", "100000.0"},
      {"1e16", "1e+16"},
      {"1E-5", "1e-05"},
      {"0.0001", "0.0001"},
      {"123456789012345680", "123456789012345680"},
      {"123456789012345680.0", "1.2345678901234568e+17"},
      {"1e22", "1e+22"},
      {"5e-324", "5e-324"},
      {"1.7976931348623157e308", "1.7976931348623157e+308"},
      {"-0.0", "-0.0"},
      {"0e10", "0.0"},
      {"9007199254740993.0", "9007199254740992.0"},
      {"1e15", "1000000000000000.0"},
      {"9999999999999998.0", "9999999999999998.0"},
      {"123.456", "123.456"},
      {"0.00012345", "0.00012345"},
      {"1e400", "Infinity"},
      {"-1e400", "-Infinity"},
      {"1e-400", "0.0"},
      {"-1e-400", "-0.0"},
      {"0.00e99999999999999999999", "0.0"},
      {"1e99999999999999999999", "Infinity"},
      {"1e-99999999999999999999", "0.0"},
      {"[NaN, Infinity, -Infinity]", "[NaN, Infinity, -Infinity]"},
  };
  for (const auto& [text, wanted] : cases) EXPECT_EQ(round_trip(text), wanted) << text;
}

TEST(Json, FloatsReadBackExactly) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 20000; ++i) {
    const double value = std::bit_cast<double>(random());
    if (!std::isfinite(value)) continue;
    const std::string text = python_float(value);
    double back = 0;
    std::from_chars(text.data(), text.data() + text.size(), back);
    EXPECT_EQ(std::bit_cast<uint64_t>(back), std::bit_cast<uint64_t>(value)) << text;
    EXPECT_EQ(round_trip(text), text);
  }
}

TEST(Json, RepeatedKeyKeepsFirstPlaceAndLastValue) {
  EXPECT_EQ(round_trip(R"({"a": 1, "b": 2, "a": 3, "c": 4, "b": 5})"), R"({"a": 3, "b": 5, "c": 4})");
}

TEST(Json, LoneSurrogatesBecomeReplacementCharacters) {
  EXPECT_EQ(round_trip(R"("\ud83d")"), "\"\ufffd\"");
  EXPECT_EQ(round_trip(R"("\ude42x")"), "\"\ufffdx\"");
  EXPECT_EQ(round_trip(R"("\ud83d\u0041")"), "\"\ufffdA\"");
  EXPECT_EQ(round_trip(R"("\ud83d\ud83d\ude42")"), "\"\ufffd🙂\"");
}

TEST(Json, RefusesWhatPythonRefuses) {
  const std::vector<std::string> cases = {"",
                                          " ",
                                          "01",
                                          "1.",
                                          ".5",
                                          "+1",
                                          "-",
                                          "1e",
                                          "[1,]",
                                          "[1 2]",
                                          "{",
                                          "{\"a\"}",
                                          "{a: 1}",
                                          "{\"a\":}",
                                          "{\"a\":1,}",
                                          "'a'",
                                          "\"\n\"",
                                          "\"\t\"",
                                          "\"\\x\"",
                                          "\"\\u12\"",
                                          "\"abc",
                                          "tru",
                                          "nul",
                                          "-NaN",
                                          "-Infinit",
                                          "1 2",
                                          "\v1",
                                          "\xef\xbb\xbf"
                                          "1",
                                          "[",
                                          "]"};
  for (const std::string& text : cases) EXPECT_THROW(Json::parse(text), Error) << text;
}

TEST(Json, RefusesInvalidUtf8WithItsPlace) {
  try {
    Json::parse("\"ab\xff\"");
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "JSON: byte 3: invalid UTF-8");
  }
}

TEST(Json, LimitsDepth) {
  const auto nested = [](int depth) { return std::string(static_cast<size_t>(depth), '[') + std::string(static_cast<size_t>(depth), ']'); };
  EXPECT_EQ(round_trip(nested(kMaxJsonDepth)), nested(kMaxJsonDepth));
  EXPECT_THROW(Json::parse(nested(kMaxJsonDepth + 1)), Error);
  EXPECT_THROW(Json::parse(std::string(1000000, '[')), Error);
  // Siblings do not add up.
  std::string wide = "[";
  for (int i = 0; i < 2 * kMaxJsonDepth; ++i) wide += "[], ";
  EXPECT_EQ(round_trip(wide + "{}]"), wide + "{}]");
}

TEST(Json, TruthIsPythons) {
  for (const char* text : {"null", "false", "0", "0.0", "-0.0", "\"\"", "[]", "{}"}) EXPECT_FALSE(Json::parse(text).truthy()) << text;
  for (const char* text : {"true", "1", "-1", "0.5", "NaN", "\"0\"", "[0]", "{\"a\": 0}"}) EXPECT_TRUE(Json::parse(text).truthy()) << text;
}

TEST(Json, FindsMembers) {
  const Json value = Json::parse(R"({"a": {"b": "c"}})");
  ASSERT_NE(value.find("a"), nullptr);
  EXPECT_EQ(value.find("a")->find("b")->string(), "c");
  EXPECT_EQ(value.find("b"), nullptr);
  EXPECT_EQ(Json::parse("[1]").find("a"), nullptr);
}

TEST(JsonReader, ReadsPieceByPiece) {
  JsonReader reader(R"({"n": 5, "skip": [{"x": [1, "y"]}, 2.5e3, null], "s": "t", "a": [true, false]})", "file");
  std::string seen;
  reader.read_object([&](const std::string& key) {
    if (key == "n") {
      seen += std::to_string(reader.read_integer(0, 5));
    } else if (key == "s") {
      seen += reader.read_string();
    } else if (key == "a") {
      reader.read_array([&] { seen += reader.read_bool() ? "T" : "F"; });
    } else {
      reader.skip_value();
    }
  });
  reader.finish();
  EXPECT_EQ(seen, "5tTF");
}

TEST(JsonReader, ErrorsNameSourceAndByte) {
  JsonReader reader("[7]", "vocab.json");
  try {
    reader.read_array([&] { reader.read_integer(0, 6); });
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "vocab.json: byte 1: 7 is not an integer in [0, 6]");
  }
}

TEST(JsonReader, RefusesIntegersOutOfRange) {
  for (const char* text : {"-1", "11", "99999999999999999999999", "1.0", "1e0", "\"1\"", "null"}) {
    JsonReader reader(text, "t");
    EXPECT_THROW(reader.read_integer(0, 10), Error) << text;
  }
}

}  // namespace
}  // namespace dsv4
