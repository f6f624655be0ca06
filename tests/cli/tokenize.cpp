#include "cli/dsv4.h"
#include "support/temp_dir.h"

namespace dsv4::test {
namespace {

std::string ids_of(const nlohmann::ordered_json& ids) {
  std::string list;
  for (int32_t id : ids) list += (list.empty() ? "" : " ") + std::to_string(id);
  return list;
}

TEST(Tokenize, IdsAndPieces) {
  const std::string text = "In the beginning: naïve 🙂\n";
  const nlohmann::ordered_json report = dsv4_json({"tokenize", "--json", "--text", text});
  EXPECT_EQ(report.at("ids").size(), report.at("pieces").size());
  EXPECT_EQ(dsv4_output({"tokenize", "--text", text}), ids_of(report.at("ids")) + "\n");
  EXPECT_EQ(dsv4_output({"tokenize", "--decode", ids_of(report.at("ids"))}), text + "\n");
  EXPECT_EQ(dsv4_output({"tokenize", "--decode", "-"}, ids_of(report.at("ids"))), text + "\n");
}

TEST(Tokenize, TakesTextFromEverywhere) {
  const TempDir dir;
  write_file(dir / "text", std::string_view("two words"));
  const std::string expected = dsv4_output({"tokenize", "--text", "two words"});
  EXPECT_EQ(dsv4_output({"tokenize", "two", "words"}), expected);
  EXPECT_EQ(dsv4_output({"tokenize", "--file", (dir / "text").string()}), expected);
  EXPECT_EQ(dsv4_output({"tokenize", "-"}, "two words"), expected);
  EXPECT_EQ(dsv4_output({"tokenize"}, "two words"), expected);
  EXPECT_EQ(dsv4_output({"tokenize", "--tokenizer", kTinyModel + "/tokenizer.json", "two words"}), expected);
  EXPECT_EQ(dsv4_output({"tokenize", "--text", ""}), "\n");
}

TEST(Tokenize, PlainMatchesNoControlTokens) {
  EXPECT_EQ(dsv4_json({"tokenize", "--json", "<think>"}).at("ids").size(), 1u);
  const nlohmann::ordered_json plain = dsv4_json({"tokenize", "--plain", "--json", "<think>"}).at("ids");
  EXPECT_GT(plain.size(), 1u);
  EXPECT_EQ(dsv4_output({"tokenize", "--decode", ids_of(plain)}), "<think>\n");
}

TEST(Tokenize, ABatchAnswersLineByLine) {
  const ProcessResult result =
      run_dsv4({"tokenize", "--batch", "-"}, "{\"text\": \"two words\"}\nnot JSON\n{\"text\": 5}\n[]\n{\"text\": \"\"}\n");
  EXPECT_EQ(result.exit_status, 0);
  EXPECT_EQ(result.err, "");
  const std::vector<std::string> answers = lines(result.out);
  ASSERT_EQ(answers.size(), 5u);
  EXPECT_EQ(ids_of(nlohmann::ordered_json::parse(answers[0])) + "\n", dsv4_output({"tokenize", "two words"}));
  for (size_t i = 1; i < 4; ++i) EXPECT_TRUE(nlohmann::ordered_json::parse(answers[i]).contains("error")) << answers[i];
  EXPECT_EQ(answers[4], "[]");
}

TEST(Tokenize, RefusesBadInput) {
  const TempDir dir;
  write_file(dir / "bad", std::string_view("a\x80"));
  expect_failure({"tokenize", "--file", (dir / "bad").string()}, "invalid UTF-8 at byte 1");
  expect_failure({"tokenize", "--text", "\xc0"}, "--text: invalid UTF-8 at byte 0");
  expect_failure({"tokenize", "--decode", "1 2 x"}, "\"x\" is no token id");
  expect_failure({"tokenize", "--decode", "3072"}, "\"3072\" is no token id, expected 0 to 3071");
  expect_failure({"tokenize", "--tokenizer", (dir / "none").string(), "a"}, "none");
  expect_failure({"tokenize", "--tokenizer", (dir / "bad").string(), "a"}, "bad");
  expect_failure({"tokenize", "--batch", (dir / "none").string()}, "No such file or directory");
  expect_usage_error({"tokenize", "--batch", ""}, "--batch: is empty");
  expect_usage_error({"tokenize", "--text", "a", "--file", "b"}, "give at most one of");
}

}  // namespace
}  // namespace dsv4::test
