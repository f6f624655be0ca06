#include "cli/dsv4.h"

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

}  // namespace
}  // namespace dsv4::test
