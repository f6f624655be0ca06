#include "cli/dsv4.h"
#include "support/temp_dir.h"

namespace dsv4::test {
namespace {

TEST(Inspect, ShowsTheBundledModel) {
  const std::string text = dsv4_output({"inspect"});
  EXPECT_NE(text.find("vocabulary 3072"), std::string::npos) << text;
  const nlohmann::ordered_json report = dsv4_json({"inspect", "--json"});
  EXPECT_EQ(report.at("config").at("vocab_size"), 3072) << report.dump();
}

TEST(Inspect, PlansMoreMemoryForMoreContext) {
  const auto needed = [](const std::string& context, const std::string& sequences) {
    return dsv4_json({"inspect", "--json", "--context", context, "--sequences", sequences}).at("memory").dump();
  };
  EXPECT_NE(needed("1024", "1"), needed("4096", "1"));
  EXPECT_NE(needed("1024", "1"), needed("1024", "2"));
}

TEST(Inspect, WorksFromAConfigurationAlone) {
  const TempDir dir;
  std::filesystem::copy_file(kTinyModel + "/config.json", dir / "any-name.json");
  const nlohmann::ordered_json report = dsv4_json({"inspect", "--json", "--config", (dir / "any-name.json").string()});
  EXPECT_EQ(report.at("config").at("vocab_size"), 3072);
}

TEST(Inspect, RefusesBadInput) {
  const TempDir dir;
  write_file(dir / "config.json", std::string_view("{\"vocab_size\": -1}"));
  expect_failure({"inspect", "--config", (dir / "config.json").string()}, "config.json");
  expect_failure({"inspect", "--config", (dir / "none").string()}, "none");
  expect_failure({"inspect", "--gpu-memory", "nan"}, "nan");
  expect_failure({"inspect", "--context", "1048577"}, "1048577");
  expect_usage_error({"inspect", "--gpus", "0"}, "--gpus: \"0\"");
  expect_usage_error({"inspect", "--check", "some"}, "--check: \"some\", expected none, standard or all");
  expect_usage_error({"inspect", "--config", "a", "--model", "b"}, "excludes");
}

}  // namespace
}  // namespace dsv4::test
