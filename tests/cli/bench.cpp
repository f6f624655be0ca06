#include <fstream>

#include "cli/dsv4.h"
#include "support/temp_dir.h"

namespace dsv4::test {
namespace {

TEST(Bench, MeasuresEveryCombination) {
  const std::vector<std::string> args = {"bench",           "-m", kMiniModel,        "--batch", "1,3", "--context", "0,40",
                                         "--prompt-tokens", "9",  "--decode-tokens", "2"};
  std::vector<std::string> with_json = args;
  with_json.push_back("--json");
  const nlohmann::ordered_json report = dsv4_json(with_json);
  ASSERT_EQ(report.at("rows").size(), 4u);
  const std::vector<std::pair<int, int>> expected = {{1, 0}, {1, 40}, {3, 0}, {3, 40}};
  for (size_t i = 0; i < 4; ++i) {
    const auto& row = report.at("rows").at(i);
    EXPECT_EQ(row.at("batch"), expected[i].first);
    EXPECT_EQ(row.at("context"), expected[i].second);
    EXPECT_GT(row.at("prefill_tokens_per_second").get<double>(), 0.0);
    const double step = row.at("decode_step_seconds");
    EXPECT_NEAR(row.at("decode_tokens_per_second").get<double>() * step, expected[i].first, 1e-6);
  }
  EXPECT_GT(report.at("first_token_seconds").get<double>(), 0.0);
  EXPECT_GT(report.at("peak_resident_bytes").get<int64_t>(), 1 << 20);
  EXPECT_EQ(lines(dsv4_output(args)).size(), 6u);  // a head, the rows, a summary
}

TEST(Bench, MeasuresADummyModel) {
  const nlohmann::ordered_json report = dsv4_json(
      {"bench", "--dummy", kMiniModel + "/config.json", "--layers", "3", "--prompt-tokens", "9", "--decode-tokens", "2", "--json"});
  EXPECT_EQ(report.at("layers"), 3);
  EXPECT_GT(report.at("rows").at(0).at("decode_tokens_per_second").get<double>(), 0.0);
}

TEST(Bench, RefusesBadInput) {
  expect_usage_error({"bench", "--layers", "2"}, "--layers");
  expect_failure({"bench", "--dummy", "flash", "--layers", "44"}, "44 layers, expected 1 to 43");
  expect_usage_error({"bench", "--batch", "1,x"}, "--batch: \"x\"");
  expect_usage_error({"bench", "--batch", "0"}, "--batch: \"0\"");
  expect_usage_error({"bench", "--decode-tokens", "0"}, "--decode-tokens: \"0\"");
  expect_failure({"bench", "-m", kMiniModel, "--context", "250"}, "this model has 256");
}

TEST(Bench, MeasuresSteps) {
  const TempDir folder;
  const std::string file = (folder.path() / "results.jsonl").string();
  const std::vector<std::string> args = {"bench", "decode", "-m", kMiniModel, "--batch", "1,2", "--context", "40,60", "--steps", "3"};
  std::vector<std::string> with_file = args;
  with_file.insert(with_file.end(), {"--json", "--append", file});
  const std::vector<std::string> printed = lines(dsv4_output(with_file));
  ASSERT_EQ(printed.size(), 4u);
  const auto first = nlohmann::json::parse(printed[0]);
  EXPECT_EQ(first.at("setup").at("model"), "mini");
  EXPECT_EQ(first.at("command"), "dsv4 bench decode --model " + kMiniModel + " --batch 1,2 --context 40,60 --steps 3");
  EXPECT_EQ(nlohmann::json::parse(printed[3]).at("setup").at("batch"), 2);
  std::ifstream appended(file);
  for (const std::string& expected : printed) {
    std::string line;
    std::getline(appended, line);
    EXPECT_EQ(line, expected);
  }
  EXPECT_EQ(lines(dsv4_output(args)).size(), 4 * 3u);
  EXPECT_EQ(lines(dsv4_output({"bench", "prefill", "-m", kMiniModel, "--tokens", "50", "--chunk", "20,50"})).size(), 2u);
}

// A model of random weights: the first layers of a configuration.
TEST(Bench, MeasuresStepsOfADummy) {
  const std::vector<std::string> args = {"bench",   "decode", "--dummy", kMiniModel + "/config.json", "--layers", "3", "--context", "30",
                                         "--steps", "2",      "--json"};
  const nlohmann::ordered_json result = dsv4_json(args);
  EXPECT_EQ(result.at("setup").at("layers"), 3);
  EXPECT_EQ(result.at("setup").at("full_layers"), 4);
  EXPECT_GT(result.at("figures").at("step_ms").get<double>(), 0.0);
}

TEST(Bench, StepsRefuseBadInput) {
  expect_usage_error({"bench", "--batch", "2", "decode"}, "decode excludes --batch");
  expect_usage_error({"bench", "decode", "--chunk", "2"}, "--chunk");
  expect_usage_error({"bench", "prefill", "--chunk", "0"}, "--chunk: \"0\"");
  expect_usage_error({"bench", "decode", "-m", kMiniModel, "--dummy", "flash"}, "excludes");
  expect_failure({"bench", "decode", "--dummy", "flash", "--layers", "44"}, "44 layers, expected 1 to 43");
  expect_failure({"bench", "decode", "-m", kMiniModel, "--context", "300"}, "this model has 256");
  expect_failure({"bench", "decode", "-m", kMiniModel, "--context", "20"},
                 "context 20: 40 steps and 9 before them need at least 50 tokens");
  expect_failure({"bench", "decode", "-m", kMiniModel, "--context", "30", "--steps", "1", "--append", "/nowhere/a"}, "/nowhere/a");
}

}  // namespace
}  // namespace dsv4::test
