#include "model/model_files.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <set>
#include <string>

#include "support/checkpoint_writer.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace dsv4 {
namespace {

using nlohmann::ordered_json;
using test::error_of;
using test::TempDir;
using test::TensorData;

const std::string kIndex = "model.safetensors.index.json";
const std::string kFirst = "model-00001-of-00002.safetensors";
const std::string kSecond = "model-00002-of-00002.safetensors";

// Four tensors of one byte; a and c fall into the first shard, b and d into the second.
test::CheckpointContents four_tensors() {
  test::CheckpointContents contents;
  contents.config = ordered_json::object();
  for (const uint8_t value : {1, 2, 3, 4}) contents.tensors[std::string(1, static_cast<char>('a' + value - 1))] = {"I8", {1}, {value}};
  return contents;
}

std::string open_error(const TempDir& dir) {
  return error_of([&] { open_model_files(dir.path()); });
}

// What opening says after `change` has rewritten the index or the directory.
std::string error_after(const std::function<void(ordered_json& index, const TempDir& dir)>& change) {
  const TempDir dir;
  ordered_json index = test::write_sharded_checkpoint(dir.path(), four_tensors(), 2);
  change(index, dir);
  test::write_file(dir / kIndex, index.dump());
  return open_error(dir);
}

TEST(ModelFiles, ShardsTogetherHoldAllTensors) {
  const TempDir dir;
  test::write_sharded_checkpoint(dir.path(), four_tensors(), 2);
  const ModelFiles model = open_model_files(dir.path());
  EXPECT_EQ(model.files.size(), 2u);
  EXPECT_TRUE(model.messages.empty());
  ASSERT_EQ(model.tensors.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(model.tensors[i].name, std::string(1, static_cast<char>('a' + i)));
    EXPECT_EQ(*model.tensors[i].view.as<uint8_t>(), i + 1);
  }
}

TEST(ModelFiles, AShardMayBeALinkToAnotherDirectory) {
  const TempDir dir;
  test::write_sharded_checkpoint(dir.path(), four_tensors(), 2);
  std::filesystem::create_directory(dir / "blobs");
  std::filesystem::rename(dir / kFirst, dir / "blobs/0");
  std::filesystem::create_symlink("blobs/0", dir / kFirst);
  EXPECT_EQ(open_error(dir), "");
}

TEST(ModelFiles, MissingAndCyclicShards) {
  EXPECT_TRUE(error_after([](auto&, const TempDir& dir) {
                std::filesystem::remove(dir / kSecond);
              }).ends_with("/" + kSecond + ": No such file or directory"));
  EXPECT_TRUE(error_after([](auto&, const TempDir& dir) {
                std::filesystem::remove(dir / kSecond);
                std::filesystem::create_symlink(kSecond, dir / kSecond);
              }).ends_with("/" + kSecond + ": Too many levels of symbolic links"));
  EXPECT_EQ(error_after([](auto&, const TempDir& dir) { test::write_file(dir / kSecond, "short"); }),
            kSecond + ": 5 bytes, expected at least 8: not a safetensors file");
}

TEST(ModelFiles, ShardNamesThatLeaveTheDirectory) {
  const std::vector<std::string> names = {"../" + kFirst, "/etc/model.safetensors", "sub/" + kFirst, "..", "", ".",
                                          "model.bin",    "a\\b.safetensors"};
  for (const std::string& name : names) {
    EXPECT_EQ(error_after([&](ordered_json& index, const TempDir&) { index["weight_map"]["a"] = name; }),
              kIndex + ": a: shard \"" + name + "\", expected a plain file name ending in .safetensors");
  }
  EXPECT_EQ(error_after([&](ordered_json& index, const TempDir&) { index["weight_map"]["a"] = std::string("x\0.safetensors", 14); }),
            kIndex + ": a: shard \"x\\x00.safetensors\", expected a plain file name ending in .safetensors");
  EXPECT_EQ(error_after([&](ordered_json& index, const TempDir&) { index["weight_map"]["a"] = 1; }),
            kIndex + ": a: expected the name of a shard");
}

TEST(ModelFiles, AnIndexThatLies) {
  EXPECT_EQ(error_after([](ordered_json& index, const TempDir&) { index["weight_map"]["x"] = kFirst; }),
            kIndex + ": x: not in " + kFirst + ", where the index says it is");
  EXPECT_EQ(error_after([](ordered_json& index, const TempDir&) { index["weight_map"]["a"] = kSecond; }),
            kIndex + ": a: in " + kFirst + ", but the index says " + kSecond);
  EXPECT_EQ(error_after([](ordered_json&, const TempDir& dir) {
              auto tensors = four_tensors().tensors;
              tensors.erase("d");
              test::write_file(dir / kFirst, test::safetensors_file(tensors));
            }),
            "b: in several shards: " + kFirst + " and " + kSecond);
}

TEST(ModelFiles, IndexesOfTheWrongForm) {
  const auto error_of_index = [](std::string_view text) {
    const TempDir dir;
    test::write_file(dir / kIndex, text);
    return open_error(dir);
  };
  EXPECT_EQ(error_of_index(""), kIndex + ": not valid JSON at byte 1");
  EXPECT_EQ(error_of_index("[]"), kIndex + ": weight_map: expected an object of shards by tensor");
  EXPECT_EQ(error_of_index("{}"), kIndex + ": weight_map: expected an object of shards by tensor");
  EXPECT_EQ(error_of_index(R"({"weight_map": {}})"), kIndex + ": weight_map: expected an object of shards by tensor");
  EXPECT_EQ(error_of_index(R"({"weight_map": []})"), kIndex + ": weight_map: expected an object of shards by tensor");
  EXPECT_EQ(error_of_index(R"({"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}})"), kIndex + ": key \"a\" occurs twice");
  std::string many = R"({"weight_map": {)";
  for (int i = 0; i < 5000; ++i) many += (i ? ",\"" : "\"") + std::to_string(i) + "\":\"self.safetensors\"";
  EXPECT_TRUE(error_of_index(many + "}}").ends_with("/self.safetensors: No such file or directory"));
}

TEST(ModelFiles, WhatIsPassedOverIsSaid) {
  const TempDir dir;
  ordered_json index = test::write_sharded_checkpoint(dir.path(), four_tensors(), 2);
  index["weight_map"].erase("c");
  test::write_file(dir / kIndex, index.dump());
  const ModelFiles model = open_model_files(dir.path());
  EXPECT_EQ(model.tensors.size(), 3u);
  EXPECT_EQ(model.messages, (std::vector<std::string>{kFirst + ": 1 tensors are not in the index and are ignored: c",
                                                      kIndex + ": metadata.total_size is 4, the tensors have 3 bytes"}));
}

TEST(ModelFiles, ASingleFileComesFirst) {
  const TempDir dir;
  test::write_sharded_checkpoint(dir.path(), four_tensors(), 2);
  test::write_checkpoint(dir.path(), four_tensors());
  const ModelFiles model = open_model_files(dir.path());
  EXPECT_EQ(model.files.size(), 1u);
  EXPECT_EQ(model.messages, (std::vector<std::string>{"model.safetensors is used, model.safetensors.index.json is ignored"}));
}

}  // namespace
}  // namespace dsv4
