#include "text/completion_parser.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/error.h"

namespace dsv4 {
namespace {

constexpr const char* kEos = "<｜end▁of▁sentence｜>";
constexpr const char* kStart = "\n\n<｜DSML｜tool_calls>\n";
constexpr const char* kEnd = "</｜DSML｜tool_calls>";

std::string parameter(const std::string& key, const std::string& is_string, const std::string& value) {
  return "<｜DSML｜parameter name=\"" + key + "\" string=\"" + is_string + "\">" + value + "</｜DSML｜parameter>\n";
}

std::string invoke(const std::string& name, const std::string& parameters) {
  return "<｜DSML｜invoke name=\"" + name + "\">\n" + parameters + "</｜DSML｜invoke>\n";
}

// A completion with these invokes and nothing else.
std::string calls(const std::string& invokes) {
  return kStart + invokes + kEnd + kEos;
}

Completion parse(const std::string& text, ThinkingMode mode = ThinkingMode::kChat) {
  return parse_completion(text, mode);
}

std::string arguments_of(const std::string& parameters) {
  const Completion completion = parse(calls(invoke("f", parameters)));
  return completion.tool_calls.size() == 1 ? completion.tool_calls[0].arguments : "not one call";
}

TEST(CompletionParser, SplitsReasoningAndContent) {
  const Completion completion = parse(std::string("why\n</think>so <b>\n") + kEos, ThinkingMode::kThinking);
  EXPECT_EQ(completion.reasoning_content, "why\n");
  EXPECT_EQ(completion.content, "so <b>\n");
  EXPECT_TRUE(completion.tool_calls.empty());
  EXPECT_EQ(parse(std::string("plain") + kEos).content, "plain");
  EXPECT_EQ(parse(kEos).content, "");
}

TEST(CompletionParser, ReadsToolCalls) {
  const std::string two = invoke("f", parameter("a", "true", "x\"\n") + parameter("b", "false", "[1, 2.50]")) + invoke("g h", "\n");
  const Completion completion = parse("sure" + calls(two));
  EXPECT_EQ(completion.content, "sure");
  ASSERT_EQ(completion.tool_calls.size(), 2u);
  EXPECT_EQ(completion.tool_calls[0].name, "f");
  EXPECT_EQ(completion.tool_calls[0].arguments, R"({"a": "x\"\n", "b": [1, 2.50]})");
  EXPECT_EQ(completion.tool_calls[1].name, "g h");
  EXPECT_EQ(completion.tool_calls[1].arguments, "{}");
}

TEST(CompletionParser, TakesValuesAsTheyAre) {
  EXPECT_EQ(arguments_of(parameter("a", "true", "")), R"({"a": ""})");
  EXPECT_EQ(arguments_of(parameter("a", "true", "</b> < <")), R"({"a": "</b> < <"})");
  EXPECT_EQ(arguments_of(parameter("a", "false", "not json")), R"({"a": not json})");  // unchecked
  EXPECT_EQ(arguments_of(parameter("é\"", "true", "v")), R"({"é\"": "v"})");
  // The key is as short as possible, so the second attribute is part of the value.
  EXPECT_EQ(arguments_of(parameter("a", "true", "\" string=\"false\">x")), R"({"a": "\" string=\"false\">x"})");
  // A line feed between "<" and the end tag is not part of the value.
  EXPECT_EQ(arguments_of("<｜DSML｜parameter name=\"a\" string=\"true\">v<\n/｜DSML｜parameter>\n"), R"({"a": "v"})");
}

TEST(CompletionParser, TakesHeadersWithSpaceAndOneMoreLineFeed) {
  EXPECT_EQ(parse(calls("<｜DSML｜invoke \n\u3000 name=\"f\">\n</｜DSML｜invoke>\n")).tool_calls.at(0).name, "f");
  EXPECT_EQ(parse(calls("<｜DSML｜invokename=\"f\">\n\n</｜DSML｜invoke>\n")).tool_calls.at(0).name, "f");
  EXPECT_EQ(parse(calls("<｜DSML｜invoke name=\"a\nb\">\">\n</｜DSML｜invoke>\n")).tool_calls.at(0).name, "a\nb\">");
  EXPECT_THROW(parse(calls("<｜DSML｜invoke name=\"f\">\n\n\n</｜DSML｜invoke>\n")), Error);
  EXPECT_THROW(parse(calls("<｜DSML｜invoke name=\"f\"></｜DSML｜invoke>\n")), Error);
  EXPECT_THROW(parse(calls("<｜DSML｜invoke x name=\"f\">\n</｜DSML｜invoke>\n")), Error);
  EXPECT_THROW(parse(calls("<｜DSML｜invoke name=\">\n</｜DSML｜invoke>\n")), Error);
}

TEST(CompletionParser, RefusesWhatTheOfficialParserRefuses) {
  const std::string good = invoke("f", parameter("a", "true", "v"));
  const std::vector<std::string> bad = {
      "",
      "no end",
      "x<｜end▁of▁sentence｜>y",
      "x<｜end▁of▁sentence｜><｜end▁of▁sentence｜>",
      "a</think>b<｜end▁of▁sentence｜>",
      "a<think>b<｜end▁of▁sentence｜>",
      "a<｜begin▁of▁sentence｜><｜end▁of▁sentence｜>",
      "a｜DSML｜<｜end▁of▁sentence｜>",
      "<｜DSML｜tool_calls>\n" + good + kEnd + kEos,                                   // no empty line before
      "\n\n<｜DSML｜tool_calls>" + good + kEnd + kEos,                                 // no line feed after the tag
      std::string(kStart) + good + kEnd + " " + kEos,                                  // text after the calls
      std::string(kStart) + good + kEnd + kEos + "x",                                  // text after the end
      std::string(kStart) + good,                                                      // no end of the calls
      std::string(kStart) + "\n" + good + kEnd + kEos,                                 // text between tags
      calls(invoke("f", parameter("a", "true", "v") + parameter("a", "false", "1"))),  // repeated key
      calls(invoke("f", parameter("a", "maybe", "v"))),
      calls(invoke("f", "<｜DSML｜parameter  name=\"a\" string=\"true\">v</｜DSML｜parameter>\n")),
      calls(invoke("f", "<｜DSML｜parameter name=\"a\" string=\"true\">v/｜DSML｜parameter>\n")),
      calls(invoke("f", "<｜DSML｜parameter name=\"a\" string=\"true\">v</｜DSML｜parameter>")),
      std::string(kStart) + "<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"a\" string=\"true\">v",
  };
  for (const std::string& text : bad) EXPECT_THROW(parse(text), Error) << text;
  EXPECT_THROW(parse(std::string("no reasoning end") + kEos, ThinkingMode::kThinking), Error);
  EXPECT_THROW(parse("hm" + calls(good), ThinkingMode::kThinking), Error);
  EXPECT_THROW(parse(std::string("<think>a</think>b") + kEos, ThinkingMode::kThinking), Error);
}

TEST(CompletionParser, TakesTheEndsTheOfficialParserTakes) {
  const std::string good = invoke("f", parameter("a", "true", "v"));
  const auto num_calls = [](const std::string& text) { return parse(text).tool_calls.size(); };
  EXPECT_EQ(num_calls(kStart + good + kEnd), 1u);  // no EOS
  EXPECT_EQ(num_calls(std::string(kStart) + "<｜DSML｜invoke name=\"f\">\n"), 1u);
  EXPECT_EQ(num_calls(std::string(kStart) + "<｜DSML｜invoke name=\"f\">\n" + parameter("a", "true", "v")), 1u);
  EXPECT_EQ(num_calls(std::string(kStart) + "<｜DSML｜invoke name=\"f\">\n\n</｜DSML｜invoke"), 1u);
  EXPECT_EQ(num_calls("\n\n<｜DSML｜tool_calls"), 0u);
  EXPECT_EQ(num_calls(calls("")), 0u);
}

TEST(CompletionParser, ErrorsNameTheByte) {
  try {
    parse("x<｜end▁of▁sentence｜>y");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()), "completion: byte 28: text after the end-of-sentence token");
  }
}

}  // namespace
}  // namespace dsv4
