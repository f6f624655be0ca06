#include "runtime/verification.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "backend/cpu/backend.h"
#include "base/error.h"

namespace dsv4 {
namespace {

namespace fs = std::filesystem;

const fs::path kMini = DSV4_SOURCE_DIR "/tests/data/mini";

// A folder of its own with the golden files of the mini checkpoint, to be changed by a test.
class GoldenCopy {
 public:
  explicit GoldenCopy(const std::string& name) : folder_(fs::temp_directory_path() / ("dsv4-verification-" + name)) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    for (const char* file : {"golden.safetensors", "variation.json"}) fs::copy_file(kMini / file, folder_ / file);
  }
  ~GoldenCopy() { fs::remove_all(folder_); }

  fs::path golden() const { return folder_ / "golden.safetensors"; }
  fs::path variation() const { return folder_ / "variation.json"; }

  // Overwrites bytes of one tensor's data.
  void poke(const std::string& tensor, size_t offset, const void* bytes, size_t count) const {
    std::fstream file(golden(), std::ios::in | std::ios::out | std::ios::binary);
    uint64_t header_bytes = 0;
    file.read(reinterpret_cast<char*>(&header_bytes), sizeof(header_bytes));
    std::string header(header_bytes, '\0');
    file.read(header.data(), static_cast<std::streamsize>(header_bytes));
    const uint64_t begin = nlohmann::json::parse(header).at(tensor).at("data_offsets").at(0).get<uint64_t>();
    file.seekp(static_cast<std::streamoff>(sizeof(header_bytes) + header_bytes + begin + offset));
    file.write(static_cast<const char*>(bytes), static_cast<std::streamsize>(count));
  }

 private:
  fs::path folder_;
};

VerifyReport verify_against(const fs::path& golden) {
  const auto backend = make_cpu_backend();
  return verify({kMini, golden}, *backend);
}

std::string error_of(const fs::path& golden) {
  try {
    verify_against(golden);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Verification, TheMiniCheckpointPasses) {
  const VerifyReport report = verify_against(kMini / "golden.safetensors");
  EXPECT_TRUE(report.pass()) << report.verdict() << "\n" << report.text();
  EXPECT_EQ(report.verdict(), "verify: PASS");
  ASSERT_EQ(report.layers.size(), 4u);
  EXPECT_FALSE(report.layers[0].topk_overlap.has_value());
  EXPECT_TRUE(report.layers[2].topk_overlap.has_value());
  EXPECT_EQ(report.prefill.num_rows, 140);
  EXPECT_EQ(report.decode->num_rows, 16);
  EXPECT_GT(report.mtp->median, 0.99);
  EXPECT_EQ(report.greedy_of, 12);
  EXPECT_TRUE(*report.router_equal);
  const auto json = report.json();
  EXPECT_EQ(json.at("pass"), true);
  EXPECT_EQ(json.at("layers").at(3).at("layer"), 3);
}

TEST(Verification, AWrongLayerIsFoundAndNamed) {
  const GoldenCopy copy("layer");
  const std::vector<uint8_t> noise(140 * 4 * 128 * 2, 0x3e);  // bf16 0.186…: another direction altogether
  copy.poke("prefill.layer3.out", 0, noise.data(), noise.size());
  const VerifyReport report = verify_against(copy.golden());
  EXPECT_FALSE(report.pass());
  EXPECT_EQ(report.verdict().rfind("verify: FAIL layer 3: median", 0), 0u) << report.verdict();
  EXPECT_EQ(report.failures.size(), 1u);
}

TEST(Verification, AWrongSelectionWrongLogitsAndAWrongRouterAreFound) {
  const GoldenCopy copy("selection");
  const std::vector<int32_t> other(140 * 8, 140);  // every row selects entry 0 alone
  copy.poke("prefill.layer2.topk", 0, other.data(), other.size() * sizeof(int32_t));
  const std::vector<float> logits(140 * 256, 1.0f);
  copy.poke("prefill_logits", 0, logits.data(), logits.size() * sizeof(float));
  const float weight = 3.0f;
  copy.poke("router.weights", 8, &weight, sizeof(weight));
  const VerifyReport report = verify_against(copy.golden());
  EXPECT_FALSE(*report.router_equal);
  std::string all;
  for (const std::string& failure : report.failures) all += failure + "\n";
  EXPECT_NE(all.find("router: differs"), std::string::npos) << all;
  EXPECT_NE(all.find("prefill: 1 - median"), std::string::npos) << all;
  EXPECT_NE(all.find("prefill: argmax"), std::string::npos) << all;
}

TEST(Verification, WithoutVariationTheWholeModelIsReportedNotJudged) {
  const GoldenCopy copy("unjudged");
  fs::remove(copy.variation());
  const std::vector<float> logits(140 * 256, 1.0f);
  copy.poke("prefill_logits", 0, logits.data(), logits.size() * sizeof(float));
  const VerifyReport report = verify_against(copy.golden());
  EXPECT_TRUE(report.pass()) << report.verdict();
  EXPECT_FALSE(report.judged_by_variation);
  EXPECT_LT(report.prefill.median, 0.9);
}

TEST(Verification, GoldenFilesThatDoNotFitAreRefused) {
  const GoldenCopy copy("bad");
  const int32_t bad_id = 256;
  copy.poke("input_ids", 4, &bad_id, sizeof(bad_id));
  EXPECT_EQ(error_of(copy.golden()), "golden.safetensors: input_ids: token id 256, expected 0 to 255");
  const int32_t good_id = 1, bad_length = 157;
  copy.poke("input_ids", 4, &good_id, sizeof(good_id));
  copy.poke("prefill_len", 0, &bad_length, sizeof(bad_length));
  EXPECT_EQ(error_of(copy.golden()), "golden.safetensors: prefill_len: 157, expected 1 to 156");
  const int32_t length = 140, bad_layer = 0;
  copy.poke("prefill_len", 0, &length, sizeof(length));
  copy.poke("router.layer", 0, &bad_layer, sizeof(bad_layer));
  EXPECT_EQ(error_of(copy.golden()), "golden.safetensors: router.layer: 0, expected 1 to 3");
  EXPECT_EQ(error_of(kMini / "model.safetensors"), "model.safetensors: tensor input_ids is missing");
  std::ofstream(copy.variation()) << "[]";
  const int32_t layer = 2;
  copy.poke("router.layer", 0, &layer, sizeof(layer));
  EXPECT_NE(error_of(copy.golden()).find("variation.json: not a JSON object"), std::string::npos);
}

}  // namespace
}  // namespace dsv4
