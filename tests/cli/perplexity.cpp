#include <fmt/format.h>
#include "cli/dsv4.h"

#include <cmath>

#include "support/temp_dir.h"

namespace dsv4::test {
namespace {

TEST(Perplexity, ReportsOneTextAlikeAsTextAndJson) {
  const TempDir dir;
  const std::string text = "And God said, Let there be light: and there was light.";
  write_file(dir / "text", std::string_view(text));
  const nlohmann::ordered_json report = dsv4_json({"perplexity", "--json", "--mtp", (dir / "text").string()});
  const size_t num_tokens = dsv4_json({"tokenize", "--json", "--plain", "--text", text}).at("ids").size();
  EXPECT_EQ(report.at("bytes"), text.size());
  EXPECT_EQ(report.at("tokens"), num_tokens);
  EXPECT_EQ(report.at("window"), 1023);
  const double bits_per_token = report.at("bits_per_token");
  EXPECT_GT(bits_per_token, 0.0);
  EXPECT_LT(bits_per_token, std::log2(3072.0));  // better than guessing: the model was trained on such text
  EXPECT_NEAR(report.at("bits_per_byte").get<double>(), bits_per_token * static_cast<double>(num_tokens) / static_cast<double>(text.size()),
              1e-12);
  EXPECT_NEAR(report.at("perplexity").get<double>(), std::pow(2.0, bits_per_token), 1e-9 * std::pow(2.0, bits_per_token));
  EXPECT_EQ(report.at("mtp").at("predictions"), num_tokens - 1);
  const std::string spoken = dsv4_output({"perplexity", "-"}, text);
  EXPECT_NE(spoken.find(fmt::format("bits per token  {:.4f}\n", bits_per_token)), std::string::npos) << spoken;
}

TEST(Perplexity, AWindowStartsAnew) {
  const std::string text = "And God said, Let there be light: and there was light.";
  const double whole = dsv4_json({"perplexity", "--json", "-"}, text).at("bits_per_token");
  const double alone = dsv4_json({"perplexity", "--json", "--window", "1", "-"}, text).at("bits_per_token");
  EXPECT_GT(alone, whole);
}

TEST(Perplexity, RefusesBadInput) {
  const TempDir dir;
  expect_failure({"perplexity", "-"}, "the text is empty");
  expect_failure({"perplexity", "-"}, "invalid UTF-8 at byte 1", "a\xff");
  expect_failure({"perplexity", (dir / "none").string()}, "No such file or directory");
  expect_failure({"perplexity", "-m", kMiniModel}, "no text file given");
  expect_failure({"perplexity", "--window", "1048576", "-"}, "window: 1048576", "word");
  expect_usage_error({"perplexity", "--window", "0", "-"}, "--window: \"0\"");
}

}  // namespace
}  // namespace dsv4::test
