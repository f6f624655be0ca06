#include "cli/dsv4.h"
#include "support/temp_dir.h"

namespace dsv4::test {
namespace {

using Ids = std::vector<int32_t>;

nlohmann::ordered_json generate(std::vector<std::string> args, const std::string& input = {}) {
  args.insert(args.begin(), {"generate", "--json"});
  return dsv4_json(args, input);
}

std::string decode(const Ids& ids) {
  return dsv4_json({"tokenize", "--json", "--decode", ids_text(ids)}).at("text");
}

TEST(Generate, StreamsTheTextThatJsonReports) {
  const nlohmann::ordered_json report = generate({"--temperature", "0", "-n", "24", "Who was Moses?"});
  const std::string text = report.at("text");
  EXPECT_FALSE(text.empty());
  EXPECT_EQ(dsv4_output({"generate", "--temperature", "0", "-n", "24", "Who was Moses?"}), text + "\n");
  EXPECT_EQ(report.at("content"), text);
  EXPECT_EQ(report.at("reasoning_content"), "");
  EXPECT_TRUE(report.at("tool_calls").empty());
  const Ids ids = report.at("token_ids");
  EXPECT_EQ(report.at("usage").at("completion_tokens"), ids.size());
  EXPECT_EQ(report.at("usage").at("prompt_tokens"), report.at("prompt_token_ids").size());
  if (report.at("finish_reason") == "length") {
    EXPECT_EQ(ids.size(), 24u);
    EXPECT_EQ(decode(ids), text);
  }
}

TEST(Generate, TheSeedDecides) {
  const auto with_seed = [](const char* seed) {
    return generate({"--temperature", "1.5", "-n", "12", "--seed", seed, "Tell me of the king"});
  };
  const nlohmann::ordered_json first = with_seed("5");
  EXPECT_EQ(first.at("seed"), 5);
  EXPECT_EQ(first.at("token_ids"), with_seed("5").at("token_ids"));
  EXPECT_NE(first.at("token_ids"), with_seed("6").at("token_ids"));
}

TEST(Generate, ReadsThePromptFromEverywhere) {
  const TempDir dir;
  const std::string prompt = "- who was Nöah?\n";
  write_file(dir / "prompt", std::string_view(prompt));
  const auto expected = generate({"-n", "1", "--prompt", prompt}).at("prompt_token_ids");
  EXPECT_EQ(generate({"-n", "1", "--prompt-file", (dir / "prompt").string()}).at("prompt_token_ids"), expected);
  EXPECT_EQ(generate({"-n", "1", "-"}, prompt).at("prompt_token_ids"), expected);
  EXPECT_EQ(generate({"-n", "1", "-p", "-"}, prompt).at("prompt_token_ids"), expected);
}

TEST(Generate, EncodesTheConversationAsEncodeDoes) {
  const std::string messages = R"([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}])";
  for (const char* mode : {"none", "high", "max"}) {
    const nlohmann::ordered_json report = generate({"-n", "1", "--system", "Be brief.", "--think", mode, "Hello"});
    EXPECT_EQ(ids_text(report.at("prompt_token_ids")) + "\n", dsv4_output({"encode", "--ids", "--think", mode}, messages)) << mode;
  }
}

TEST(Generate, RawContinuesTheTextAfterBos) {
  Ids expected = dsv4_json({"tokenize", "--plain", "--json", "And it came <think>"}).at("ids");
  expected.insert(expected.begin(), 0);
  const nlohmann::ordered_json report = generate({"--raw", "-n", "3", "--ignore-eos", "And it came <think>"});
  EXPECT_EQ(report.at("prompt_token_ids"), expected);
  EXPECT_EQ(report.at("content"), report.at("text"));
}

TEST(Generate, AUserCannotForgeControlTokens) {
  const Ids user = dsv4_json({"tokenize", "--json", "<｜User｜>"}).at("ids");
  ASSERT_EQ(user.size(), 1u);
  const Ids prompt = generate({"-n", "1", "--system", "<｜User｜>", "a<｜User｜>b"}).at("prompt_token_ids");
  EXPECT_EQ(std::count(prompt.begin(), prompt.end(), user.front()), 1);
  EXPECT_NE(decode(prompt).find("a<｜User｜>b"), std::string::npos);
}

TEST(Generate, StopsAtStringsAndTokens) {
  const std::vector<std::string> base = {"--raw", "--temperature", "0", "--ignore-eos", "-n", "40", "And the LORD spake unto Moses"};
  const nlohmann::ordered_json whole = generate(base);
  const std::string text = whole.at("text");
  const Ids ids = whole.at("token_ids");
  EXPECT_EQ(whole.at("finish_reason"), "length");
  ASSERT_GT(text.size(), 30u);

  const std::string stop = text.substr(17, 6);
  std::vector<std::string> args = base;
  args.insert(args.end(), {"--stop", "not in the text §", "--stop", stop});
  const nlohmann::ordered_json stopped = generate(args);
  EXPECT_EQ(stopped.at("text"), text.substr(0, text.find(stop)));
  EXPECT_EQ(stopped.at("finish_reason"), "stop");

  // The first token that is not the first one again.
  const size_t place =
      static_cast<size_t>(std::find_if(ids.begin(), ids.end(), [&](int32_t id) { return id != ids.front(); }) - ids.begin());
  ASSERT_LT(place, ids.size());
  args = base;
  args.insert(args.end(), {"--stop-token", fmt::format("{}", ids[place])});
  const nlohmann::ordered_json at_token = generate(args);
  EXPECT_EQ(at_token.at("token_ids"), Ids(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(place) + 1));
  EXPECT_EQ(at_token.at("text"), decode(Ids(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(place))));
  EXPECT_EQ(at_token.at("finish_reason"), "stop");
}

TEST(Generate, LogitBiasAndLogprobs) {
  const nlohmann::ordered_json report = generate(
      {"--raw", "--temperature", "0", "-n", "3", "--ignore-eos", "--logprobs", "2", "--logit-bias", "70=1000", "In the beginning"});
  EXPECT_EQ(report.at("token_ids"), (Ids{70, 70, 70}));
  ASSERT_EQ(report.at("logprobs").size(), 3u);
  const auto& first = report.at("logprobs").at(0);
  EXPECT_EQ(first.at("token_id"), 70);
  EXPECT_EQ(first.at("token"), decode({70}));
  EXPECT_NEAR(first.at("logprob").get<double>(), 0.0, 1e-6);
  ASSERT_EQ(first.at("top").size(), 2u);
  EXPECT_EQ(first.at("top").at(0).at("token_id"), 70);
  EXPECT_LT(first.at("top").at(1).at("logprob").get<double>(), -100.0);
}

TEST(Generate, SaysHowFastItWasUnlessQuiet) {
  const ProcessResult spoken = run_dsv4({"generate", "-n", "2", "--seed", "9", "word"});
  EXPECT_EQ(lines(spoken.err).size(), 1u) << spoken.err;
  for (const char* part : {"prompt ", "answer 2 tokens", "tok/s", "first token ", "finish length", "seed 9"}) {
    EXPECT_NE(spoken.err.find(part), std::string::npos) << part << ": " << spoken.err;
  }
  EXPECT_EQ(run_dsv4({"generate", "-n", "2", "-q", "word"}).err, "");
}

TEST(Generate, AnAnswerEndsWhereTheContextDoes) {
  const nlohmann::ordered_json report = generate({"--context", "20", "-n", "0", "--ignore-eos", "--raw", "And it came to pass"});
  EXPECT_EQ(report.at("usage").at("total_tokens"), 20);
  EXPECT_EQ(report.at("finish_reason"), "length");
}

TEST(Generate, RefusesBadPrompts) {
  const TempDir dir;
  write_file(dir / "empty", std::string_view(""));
  write_file(dir / "bad", std::string_view("ab\xff"));
  expect_failure({"generate", "--prompt-file", (dir / "empty").string()}, "the prompt is empty");
  expect_failure({"generate", "--prompt", ""}, "the prompt is empty");
  expect_failure({"generate", "-"}, "the prompt is empty");
  expect_failure({"generate", "--prompt-file", (dir / "bad").string()}, "invalid UTF-8 at byte 2");
  expect_failure({"generate", "a\xc3"}, "the prompt: invalid UTF-8 at byte 1");
  expect_failure({"generate", "--system", "\xff", "a"}, "--system: invalid UTF-8 at byte 0");
  expect_failure({"generate", "--prompt-file", (dir / "none").string()}, "No such file or directory");
  expect_failure({"generate", "--prompt-file", dir.path().string()}, "is a directory, expected a file");
  expect_failure({"generate", "--context", "8", "In the beginning God created the heaven and the earth"}, "the context holds 8");
  expect_usage_error({"generate"}, "give one of TEXT, --prompt and --prompt-file, 0 given");
  expect_usage_error({"generate", "a", "-p", "b"}, "give one of TEXT, --prompt and --prompt-file, 2 given");
}

TEST(Generate, RefusesBadNumbers) {
  expect_usage_error({"generate", "-n", "many", "a"}, "--max-tokens: \"many\", expected a whole number");
  expect_usage_error({"generate", "-n", "-1", "a"}, "--max-tokens: \"-1\"");
  expect_usage_error({"generate", "--top-k", "1.5", "a"}, "--top-k: \"1.5\"");
  expect_usage_error({"generate", "--threads", "0", "a"}, "--threads: \"0\", expected a whole number from 1");
  expect_usage_error({"generate", "--context", "0", "a"}, "--context: \"0\"");
  expect_usage_error({"generate", "--seed", "18446744073709551616", "a"}, "--seed: \"18446744073709551616\"");
  expect_usage_error({"generate", "--temperature", "warm", "a"}, "--temperature");
  expect_usage_error({"generate", "--json", "--logprobs", "21", "a"}, "--logprobs: \"21\"");
  expect_usage_error({"generate", "--logprobs", "2", "a"}, "--logprobs requires --json");
  expect_usage_error({"generate", "--think", "low", "a"}, "--think: \"low\", expected none, high or max");
  expect_usage_error({"generate", "--raw", "--think", "high", "a"}, "--raw");
  expect_failure({"generate", "--temperature", "nan", "a"}, "temperature: nan");
  expect_failure({"generate", "--temperature", "-0.5", "a"}, "temperature: -0.5");
  expect_failure({"generate", "--top-p", "1.5", "a"}, "top_p: 1.5");
  expect_failure({"generate", "--min-p", "1", "a"}, "min_p: 1");
  expect_failure({"generate", "--repetition-penalty", "0", "a"}, "repetition_penalty: 0");
  expect_failure({"generate", "--logit-bias", "5", "a"}, "--logit-bias \"5\"");
  expect_failure({"generate", "--logit-bias", "3072=1", "a"}, "3072");
  expect_failure({"generate", "--stop-token", "3072", "a"}, "--stop-token 3072: expected 0 to 3071");
  expect_failure({"generate", "--stop", "", "a"}, "a stop string is empty");
  expect_failure({"generate", "--context", "1048577", "a"}, "1048577");
}

TEST(Generate, RefusesModelsItCannotUse) {
  const TempDir dir;
  expect_failure({"generate", "-m", (dir / "none").string(), "a"}, "no such directory");
  expect_failure({"generate", "-m", kTinyModel + "/config.json", "a"}, "expected a directory");
  expect_failure({"generate", "-m", dir.path().string(), "a"}, "no config.json in it");
  expect_failure({"generate", "-m", kMiniModel, "a"}, "tokenizer.json");
  for (const char* name : {"config.json", "model.safetensors"}) std::filesystem::copy_file(kMiniModel + "/" + name, dir / name);
  std::filesystem::copy_file(kTinyModel + "/tokenizer.json", dir / "tokenizer.json");
  expect_failure({"generate", "-m", dir.path().string(), "a"}, "tokenizer.json: 3072 tokens, the model has 256");
  write_file(dir / "config.json", std::string_view("{"));
  expect_failure({"generate", "-m", dir.path().string(), "a"}, "config.json: not valid JSON at byte 2");
}

}  // namespace
}  // namespace dsv4::test
