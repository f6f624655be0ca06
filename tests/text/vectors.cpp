// The published vectors and random cases of the official encoder and parser, where the checkout has ../shared/encoding beside it.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>

#include "text/batch.h"
#include "text/chat_encoding.h"
#include "text/json.h"

namespace dsv4 {
namespace {

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

// Runs every line of a file through `convert`. `matches(expect, output)` compares the result where no error is expected.
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
