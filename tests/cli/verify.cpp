#include <cstring>
#include <filesystem>
#include <fstream>
#include "cli/dsv4.h"

#include "support/temp_dir.h"

namespace dsv4::test {
namespace {

TEST(Verify, TheVerdictIsTheLastLineAndTheExitStatus) {
  const std::vector<std::string> args = {"verify", "-m", kMiniModel, "--golden", kMiniModel + "/golden.safetensors"};
  const ProcessResult result = run_dsv4(args);
  EXPECT_EQ(result.err, "");
  const std::string verdict = lines(result.out).back();
  EXPECT_EQ(verdict, "verify: PASS");
  EXPECT_EQ(result.exit_status, 0);
  std::vector<std::string> with_json = args;
  with_json.push_back("--json");
  EXPECT_EQ(dsv4_json(with_json).at("pass"), true);
}

// Another model than the golden file's: the first layer already differs.
TEST(Verify, FailsForAnotherModel) {
  const TempDir dir;
  for (const char* name : {"config.json", "model.safetensors"}) std::filesystem::copy_file(kMiniModel + "/" + name, dir / name);
  std::fstream file(dir / "model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
  std::string header(8, '\0');
  file.read(header.data(), 8);
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, header.data(), 8);
  header.resize(header_bytes);
  file.read(header.data(), static_cast<std::streamsize>(header_bytes));
  const auto offsets = nlohmann::ordered_json::parse(header).at("layers.0.attn.wo_b.weight").at("data_offsets");
  const std::string zeros(offsets.at(1).get<size_t>() - offsets.at(0).get<size_t>(), '\0');
  file.seekp(static_cast<std::streamoff>(8 + header_bytes + offsets.at(0).get<uint64_t>()));
  file.write(zeros.data(), static_cast<std::streamsize>(zeros.size()));
  file.close();

  const std::vector<std::string> args = {"verify", "-m", dir.path().string(), "--golden", kMiniModel + "/golden.safetensors"};
  const ProcessResult result = run_dsv4(args);
  EXPECT_EQ(result.exit_status, 1);
  EXPECT_EQ(result.err, "");
  EXPECT_TRUE(lines(result.out).back().starts_with("verify: FAIL ")) << result.out;
  std::vector<std::string> with_json = args;
  with_json.push_back("--json");
  const ProcessResult as_json = run_dsv4(with_json);
  EXPECT_EQ(as_json.exit_status, 1);
  EXPECT_EQ(nlohmann::ordered_json::parse(as_json.out).at("pass"), false);
}

TEST(Verify, RefusesFilesItCannotUse) {
  const TempDir dir;
  expect_usage_error({"verify"}, "--golden is required");
  expect_failure({"verify", "-m", kMiniModel, "--golden", (dir / "none").string()}, "none");
  expect_failure({"verify", "-m", kMiniModel, "--golden", kMiniModel + "/config.json"}, "config.json");
  expect_failure({"verify", "-m", (dir / "none").string(), "--golden", kMiniModel + "/golden.safetensors"}, "no such directory");
}

}  // namespace
}  // namespace dsv4::test
