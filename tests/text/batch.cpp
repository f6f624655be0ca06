#include "text/batch.h"

#include <gtest/gtest.h>

#include <string>

#include "text/json.h"

namespace dsv4 {
namespace {

TEST(Batch, EncodesALine) {
  EXPECT_EQ(
      encode_batch_line(R"({"messages": [{"role": "user", "content": "é\n"}], "thinking_mode": "chat", "expect": 1, "error": false})"),
      R"({"prompt": "<｜begin▁of▁sentence｜><｜User｜>é\n<｜Assistant｜></think>"})");
  EXPECT_EQ(encode_batch_line(R"({"messages": [{"role": "user", "content": "a"}], "thinking_mode": "thinking", "drop_thinking": false,
                                  "reasoning_effort": "high", "context": [{"role": "system", "content": "s"}], "add_bos": true})"),
            R"({"prompt": "<｜User｜>a<｜Assistant｜><think>"})");
}

TEST(Batch, ParsesALine) {
  EXPECT_EQ(parse_batch_line(R"({"text": "r</think>c<｜end▁of▁sentence｜>", "thinking_mode": "thinking", "expect": {}})"),
            R"({"role": "assistant", "content": "c", "reasoning_content": "r", "tool_calls": []})");
  const std::string calls = R"(\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"a\" string=\"true\">v)"
                            R"(</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>)";
  EXPECT_EQ(parse_batch_line(R"({"text": ")" + calls + R"(<｜end▁of▁sentence｜>", "thinking_mode": "chat"})"),
            R"({"role": "assistant", "content": "", "reasoning_content": "", )"
            R"("tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{\"a\": \"v\"}"}}]})");
}

// The message of a line that must fail.
std::string error_in(const std::string& output) {
  const Json value = Json::parse(output);
  const Json* error = value.find("error");
  return error == nullptr || value.object().size() != 1 ? "no error: " + output : error->string();
}

TEST(Batch, FailuresBecomeErrorObjects) {
  EXPECT_EQ(error_in(encode_batch_line("")), "JSON: byte 0: expected a value, found the end");
  EXPECT_EQ(error_in(encode_batch_line("[]")), "line: an array, expected an object");
  EXPECT_EQ(error_in(encode_batch_line(R"({"messages": []})")), "thinking_mode: missing");
  EXPECT_EQ(error_in(encode_batch_line(R"({"thinking_mode": "chat"})")), "messages: missing");
  EXPECT_EQ(error_in(encode_batch_line(R"({"messages": [], "thinking_mode": "x"})")),
            "thinking_mode: \"x\", expected \"chat\" or \"thinking\"");
  EXPECT_EQ(error_in(encode_batch_line(R"({"messages": [], "thinking_mode": "chat", "reasoning_effort": 1})")),
            "reasoning_effort: 1, expected null, \"high\" or \"max\"");
  EXPECT_EQ(error_in(encode_batch_line(R"({"messages": [], "thinking_mode": "chat", "drop_thinking": 1})")),
            "drop_thinking: an integer, expected true or false");
  EXPECT_EQ(error_in(encode_batch_line("\xff")), "JSON: byte 0: invalid UTF-8");
  EXPECT_EQ(error_in(parse_batch_line(R"({"thinking_mode": "chat"})")), "text: missing");
  EXPECT_EQ(error_in(parse_batch_line(R"({"text": 1, "thinking_mode": "chat"})")), "text: an integer, expected a string");
  EXPECT_EQ(error_in(parse_batch_line(R"({"text": "x", "thinking_mode": "chat"})")),
            "completion: byte 1: the answer has no end-of-sentence token");
}

}  // namespace
}  // namespace dsv4
