#include "model/inspect.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "support/checkpoint_writer.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace dsv4 {
namespace {

const std::filesystem::path kSource = DSV4_SOURCE_DIR;

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(Inspect, AConfigurationAlone) {
  const Inspection inspection = inspect(kSource / "models/configs/flash.json", {.context = 4096});
  EXPECT_FALSE(inspection.has_weights);
  EXPECT_TRUE(inspection.with_mtp);
  const std::string text = inspection_text(inspection);
  EXPECT_TRUE(has(text, "43: 2 SWA, 21 CSA, 20 HCA; 1 MTP\n")) << text;
  EXPECT_TRUE(has(text, "SSCHCHCHCHCHCHCHCHCHCHCHCHCHCHCHCHCHCHCHCHC\n")) << text;
  EXPECT_TRUE(has(text, "284.33 B, 13.27 B active\n")) << text;
  EXPECT_TRUE(has(text, "69,187 expected (no weights here)\n")) << text;
  EXPECT_TRUE(has(text, "159,609,485,896    148.65 GiB\n")) << text;
  EXPECT_TRUE(has(text, "memory per GPU: 1 GPU, 1 sequence of 4,096 positions")) << text;
  const auto json = inspection_json(inspection);
  EXPECT_EQ(json["total_bytes"], 159'609'485'896);
  EXPECT_EQ(json["num_tensors"], 69'187);
  EXPECT_EQ(json["bytes_by_part"]["mHC"], 135'537'756);
  EXPECT_EQ(json["bytes_by_part"]["MTP"], 3'593'787'756);
  EXPECT_EQ(json["bytes_by_dtype"]["F8_E8M0"], 8'858'737'664);
  EXPECT_EQ(json["memory"]["context"], 4096);
}

TEST(Inspect, ADirectoryWithNothingButAConfiguration) {
  const test::TempDir dir;
  std::filesystem::copy_file(kSource / "models/configs/pro.json", dir / "config.json");
  const Inspection inspection = inspect(dir.path(), {});
  EXPECT_FALSE(inspection.has_weights);
  EXPECT_EQ(inspection.bytes.total, 864'704'792'696);
  EXPECT_EQ(inspection.bytes.num_tensors, 145'116);
}

TEST(Inspect, ACheckpoint) {
  const Inspection inspection = inspect(kSource / "tests/data/mini", {});
  EXPECT_TRUE(inspection.has_weights);
  EXPECT_EQ(inspection.bytes.num_tensors, 307);
  EXPECT_EQ(inspection.bytes.total, 3'208'929 - 29'856);  // the file less its header
  EXPECT_TRUE(inspection.messages.empty());
  EXPECT_TRUE(has(inspection_text(inspection), "307 in the files, every name, dtype and shape as expected\n"));
}

TEST(Inspect, PrunedWithoutMtp) {
  const std::vector<int> num_experts = {4, 3, 2, 4};
  const test::TempDir dir;
  test::write_checkpoint(dir.path(), test::random_checkpoint(test::small_config(), 1, false, num_experts));
  const Inspection inspection = inspect(dir.path(), {});
  EXPECT_EQ(inspection.num_experts, num_experts);
  EXPECT_FALSE(inspection.with_mtp);
  EXPECT_EQ(inspection.messages.size(), 2u);
  const std::string text = inspection_text(inspection);
  EXPECT_TRUE(has(text, "2 to 4 routed (fp4)")) << text;
  EXPECT_TRUE(has(text, "note          no mtp.* tensors")) << text;
  EXPECT_TRUE(has(text, "; 0 MTP\n")) << text;
  EXPECT_FALSE(inspection.plan.with_mtp);
  EXPECT_EQ(inspection_json(inspection)["messages"].size(), 2u);
}

TEST(Inspect, WhatIsNoModel) {
  const test::TempDir dir;
  const auto error = [](const std::filesystem::path& path) { return test::error_of([&] { inspect(path, {}); }); };
  EXPECT_EQ(error(dir / "absent"), (dir / "absent").string() + ": no such directory");
  EXPECT_EQ(error(dir.path()), (dir / "config.json").string() + ": No such file or directory");
  test::write_file(dir / "my.json", "{}");
  EXPECT_EQ(error(dir / "my.json"), "my.json: vocab_size: missing, expected an integer from 1 to 4194304");
}

}  // namespace
}  // namespace dsv4
