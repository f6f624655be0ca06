#include "cli/dsv4.h"
#include "support/temp_dir.h"

namespace dsv4::test {
namespace {

const std::string kMessages = R"([{"role": "user", "content": "A"},
  {"role": "assistant", "reasoning_content": "R", "content": "B"}, {"role": "user", "content": "C"}])";

TEST(Encode, PrintsThePromptByteForByte) {
  EXPECT_EQ(dsv4_output({"encode"}, kMessages),
            "<｜begin▁of▁sentence｜><｜User｜>A<｜Assistant｜></think>B<｜end▁of▁sentence｜><｜User｜>C<｜Assistant｜></think>");
  EXPECT_EQ(dsv4_output({"encode", "--think", "high"}, kMessages),
            "<｜begin▁of▁sentence｜><｜User｜>A<｜Assistant｜></think>B<｜end▁of▁sentence｜><｜User｜>C<｜Assistant｜><think>");
  EXPECT_EQ(dsv4_output({"encode", "--think", "high", "--keep-thinking"}, kMessages),
            "<｜begin▁of▁sentence｜><｜User｜>A<｜Assistant｜><think>R</think>B<｜end▁of▁sentence｜><｜User｜>C<｜Assistant｜><think>");
  EXPECT_TRUE(
      dsv4_output({"encode", "--think", "max"}, kMessages).starts_with("<｜begin▁of▁sentence｜>Reasoning Effort: Absolute maximum"));
}

TEST(Encode, ReadsFilesAndObjectsWithTools) {
  const TempDir dir;
  write_file(dir / "array", std::string_view(kMessages));
  write_file(dir / "object", std::string_view("{\"messages\": " + kMessages + "}"));
  const std::string expected = dsv4_output({"encode", "-"}, kMessages);
  EXPECT_EQ(dsv4_output({"encode", (dir / "array").string()}), expected);
  EXPECT_EQ(dsv4_output({"encode", (dir / "object").string()}), expected);

  const std::string tool = R"({"type": "function", "function": {"name": "f", "parameters": {}}})";
  const std::string system = R"({"role": "system", "content": "S")";
  const std::string user = R"({"role": "user", "content": "A"})";
  EXPECT_EQ(dsv4_output({"encode"}, "{\"tools\": [" + tool + "], \"messages\": [" + system + "}, " + user + "]}"),
            dsv4_output({"encode"}, "[" + system + ", \"tools\": [" + tool + "]}, " + user + "]"));
}

TEST(Encode, IdsAreThoseOfThePrompt) {
  EXPECT_EQ(dsv4_output({"encode", "--ids"}, kMessages), dsv4_output({"tokenize", "-"}, dsv4_output({"encode"}, kMessages)));
}

TEST(Encode, ABatchAnswersLineByLine) {
  const nlohmann::ordered_json good = {{"messages", nlohmann::ordered_json::parse(kMessages)}, {"thinking_mode", "chat"}};
  const std::string batch = good.dump() + "\n{}\nnot JSON\n" + R"({"messages": [{"role": "nobody"}], "thinking_mode": "chat"})" + "\n";
  const ProcessResult result = run_dsv4({"encode", "--batch", "-"}, batch);
  EXPECT_EQ(result.exit_status, 0);
  EXPECT_EQ(result.err, "");
  const std::vector<std::string> answers = lines(result.out);
  ASSERT_EQ(answers.size(), 4u);
  EXPECT_EQ(nlohmann::ordered_json::parse(answers[0]).at("prompt"), dsv4_output({"encode"}, kMessages));
  for (size_t i = 1; i < 4; ++i) EXPECT_TRUE(nlohmann::ordered_json::parse(answers[i]).contains("error")) << answers[i];
}

TEST(Encode, RefusesBadInput) {
  const TempDir dir;
  expect_failure({"encode"}, "standard input: JSON: byte 0", "");
  expect_failure({"encode"}, "nobody", R"([{"role": "nobody", "content": "a"}])");
  expect_failure({"encode"}, "messages[0]", R"(["text"])");
  expect_failure({"encode"}, "expected an array of messages", R"({"role": "user"})");
  expect_failure({"encode"}, "expected an array of messages", "5");
  expect_failure({"encode", (dir / "none").string()}, "No such file or directory");
  expect_failure({"encode", dir.path().string()}, "is a directory, expected a file");
  expect_usage_error({"encode", "--batch", "-", "--think", "high"}, "--batch");
  expect_usage_error({"encode", "--think", "hard"}, "--think: \"hard\"");
}

}  // namespace
}  // namespace dsv4::test
