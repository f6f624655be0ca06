#include "cli/dsv4.h"
#include "support/temp_dir.h"

namespace dsv4::test {
namespace {

const std::string kEos = "<｜end▁of▁sentence｜>";

TEST(Parse, TakesCompletionsApart) {
  EXPECT_EQ(dsv4_json({"parse"}, "Hello." + kEos),
            nlohmann::ordered_json::parse(R"({"role": "assistant", "content": "Hello.", "reasoning_content": "", "tool_calls": []})"));
  const nlohmann::ordered_json message =
      dsv4_json({"parse", "--think", "high"},
                "why</think>so\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n"
                "<｜DSML｜parameter name=\"x\" string=\"false\">5</｜DSML｜parameter>\n</｜DSML｜invoke>\n"
                "</｜DSML｜tool_calls>" +
                    kEos);
  EXPECT_EQ(message.at("reasoning_content"), "why");
  EXPECT_EQ(message.at("content"), "so");
  ASSERT_EQ(message.at("tool_calls").size(), 1u);
  EXPECT_EQ(message.at("tool_calls").at(0).at("function"), nlohmann::ordered_json::parse(R"({"name": "f", "arguments": "{\"x\": 5}"})"));
}

TEST(Parse, WhatItMakesCanBeEncodedAgain) {
  const std::string completion = "Hello." + kEos;
  const std::string message = dsv4_output({"parse"}, completion);
  EXPECT_EQ(dsv4_output({"encode"}, "[{\"role\": \"user\", \"content\": \"A\"}, " + message + "]"),
            dsv4_output({"encode"}, R"([{"role": "user", "content": "A"}])") + completion);
}

TEST(Parse, ABatchAnswersLineByLine) {
  const ProcessResult result =
      run_dsv4({"parse", "--batch", "-"}, "{\"text\": \"a" + kEos + "\", \"thinking_mode\": \"chat\"}\n" +
                                              "{\"text\": \"a\", \"thinking_mode\": \"chat\"}\n{\"text\": \"a\"}\n");
  EXPECT_EQ(result.exit_status, 0);
  EXPECT_EQ(result.err, "");
  const std::vector<std::string> answers = lines(result.out);
  ASSERT_EQ(answers.size(), 3u);
  EXPECT_EQ(nlohmann::ordered_json::parse(answers[0]).at("content"), "a");
  for (size_t i = 1; i < 3; ++i) EXPECT_TRUE(nlohmann::ordered_json::parse(answers[i]).contains("error")) << answers[i];
}

TEST(Parse, RefusesBadInput) {
  const TempDir dir;
  expect_failure({"parse"}, "completion: byte 5", "Hello");
  expect_failure({"parse", "--think", "max"}, "completion: byte", "Hello" + kEos);
  expect_failure({"parse"}, "standard input: invalid UTF-8 at byte 0", "\xff");
  expect_failure({"parse", (dir / "none").string()}, "No such file or directory");
  expect_usage_error({"parse", "--batch", "-", "file"}, "--batch");
}

}  // namespace
}  // namespace dsv4::test
