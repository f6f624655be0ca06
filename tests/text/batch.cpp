#include "text/batch.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <utility>

#include "text/chat_encoding.h"
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

// The published vectors and random cases of the official encoder and parser, where the checkout has ../shared/encoding beside it.
const std::filesystem::path kFolder = std::filesystem::path(DSV4_SOURCE_DIR) / ".." / "shared" / "encoding";

std::string read_text(const std::string& name) {
  std::ifstream file(kFolder / name, std::ios::binary);
  EXPECT_TRUE(file.good()) << name;
  return {std::istreambuf_iterator<char>(file), {}};
}

class SharedVectors : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(kFolder)) GTEST_SKIP() << "no " << kFolder;
  }
};

// The message list of a published input; where the file is {"tools", "messages"}, the tools go on the first message.
Json published_messages(const Json& input) {
  if (input.is_array()) return input;
  Json::Array messages = input.find("messages")->array();
  Json::Object first = messages.front().object();
  first.emplace_back("tools", *input.find("tools"));
  messages.front() = Json(std::move(first));
  return Json(std::move(messages));
}

TEST_F(SharedVectors, PublishedPrompts) {
  for (int i = 1; i <= 4; ++i) {
    const std::string number = std::to_string(i);
    ChatOptions options;
    options.thinking_mode = i == 4 ? ThinkingMode::kChat : ThinkingMode::kThinking;
    const Json input = Json::parse(read_text("test_input_" + number + ".json"));
    EXPECT_EQ(encode_chat(published_messages(input), options).text(), read_text("test_output_" + number + ".txt")) << number;
  }
}

// Runs every line of a file through `convert`; `wanted(expect)` is its output where no error is expected.
void check_lines(const std::string& name, const std::function<std::string(std::string_view)>& convert,
                 const std::function<std::string(const Json& expect)>& wanted) {
  std::ifstream file(kFolder / name, std::ios::binary);
  std::string line;
  int num_lines = 0;
  while (std::getline(file, line)) {
    ++num_lines;
    const Json input = Json::parse(line);
    const std::string output = convert(line);
    if (input.find("error")->boolean()) {
      EXPECT_NE(Json::parse(output).find("error"), nullptr) << name << ":" << num_lines << ": " << output;
    } else {
      EXPECT_EQ(output, wanted(*input.find("expect"))) << name << ":" << num_lines;
    }
  }
  EXPECT_EQ(num_lines, 300) << name;
}

TEST_F(SharedVectors, RandomPrompts) {
  check_lines("encode.jsonl", encode_batch_line, [](const Json& expect) { return Json(Json::Object{{"prompt", expect}}).dump(); });
}

TEST_F(SharedVectors, RandomCompletions) {
  check_lines("parse.jsonl", parse_batch_line, [](const Json& expect) { return expect.dump(); });
}

}  // namespace
}  // namespace dsv4
