#include "model/checkpoint.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <span>
#include <string>

#include "model/file.h"
#include "model/tensor_specs.h"
#include "support/checkpoint_writer.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace dsv4 {
namespace {

using test::CheckpointContents;
using test::error_of;
using test::random_checkpoint;
using test::small_config;
using test::TempDir;

const CheckpointContents& valid() {
  static const CheckpointContents contents = random_checkpoint(small_config(), 1);
  return contents;
}

// What opening says after `spoil` has changed a valid checkpoint.
std::string error_after(const std::function<void(CheckpointContents&)>& spoil, ValueCheck check = ValueCheck::kStandard) {
  CheckpointContents contents = valid();
  spoil(contents);
  const TempDir dir;
  test::write_checkpoint(dir.path(), contents);
  return error_of([&] { Checkpoint::open(dir.path(), check); });
}

void expect_same_tensors(const Checkpoint& checkpoint, const CheckpointContents& contents) {
  ASSERT_EQ(checkpoint.tensors().size(), contents.tensors.size());
  for (const auto& [name, data] : contents.tensors) {
    const TensorView& tensor = checkpoint.tensor(name);
    EXPECT_EQ(dtype_name(tensor.dtype), data.dtype) << name;
    EXPECT_EQ(tensor.shape, data.shape) << name;
    ASSERT_EQ(tensor.bytes, data.bytes.size()) << name;
    EXPECT_EQ(std::memcmp(tensor.data, data.bytes.data(), tensor.bytes), 0) << name;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.data) % dtype_bytes(tensor.dtype), 0u) << name;
  }
}

TEST(Checkpoint, OpensASingleFile) {
  const TempDir dir;
  test::write_checkpoint(dir.path(), valid());
  const Checkpoint checkpoint = Checkpoint::open(dir.path(), ValueCheck::kAll);
  EXPECT_EQ(config_json(checkpoint.config()), valid().config);
  EXPECT_TRUE(checkpoint.has_mtp());
  EXPECT_FALSE(checkpoint.has_draft_head());
  EXPECT_EQ(checkpoint.num_experts(), (std::vector<int>{4, 4, 4, 4, 4}));
  EXPECT_TRUE(checkpoint.messages().empty()) << checkpoint.messages().front();
  expect_same_tensors(checkpoint, valid());
}

TEST(Checkpoint, ViewsAreTyped) {
  const TempDir dir;
  test::write_checkpoint(dir.path(), valid());
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  EXPECT_NE(checkpoint.tensor("norm.weight").as<Bf16>(), nullptr);
  EXPECT_NE(checkpoint.tensor("layers.0.ffn.gate.tid2eid").as<int64_t>(), nullptr);
  EXPECT_EQ(error_of([&] { checkpoint.tensor("norm.weight").as<float>(); }), "a tensor of dtype BF16 is read as another type");
  EXPECT_EQ(error_of([&] { checkpoint.tensor("layers.9.attn_norm.weight"); }),
            "layers.9.attn_norm.weight: the checkpoint has no such tensor");
  EXPECT_EQ(checkpoint.find("layers.9.attn_norm.weight"), nullptr);
}

TEST(Checkpoint, OpensShards) {
  const TempDir dir;
  test::write_sharded_checkpoint(dir.path(), valid(), 3);
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  EXPECT_TRUE(checkpoint.messages().empty()) << checkpoint.messages().front();
  expect_same_tensors(checkpoint, valid());
}

TEST(Checkpoint, MovingKeepsViews) {
  const TempDir dir;
  test::write_checkpoint(dir.path(), valid());
  Checkpoint first = Checkpoint::open(dir.path());
  const void* const data = first.tensor("embed.weight").data;
  const Checkpoint second = std::move(first);
  EXPECT_EQ(second.tensor("embed.weight").data, data);
  expect_same_tensors(second, valid());
}

// An odd header length puts every tensor at an odd address.
TEST(Checkpoint, AlignsWhatTheFileDoesNot) {
  auto bytes = test::safetensors_file(valid().tensors);
  uint64_t header_length = 0;
  std::memcpy(&header_length, bytes.data(), 8);
  for (int pad = 0; pad < 8; ++pad) {
    const Checkpoint checkpoint = Checkpoint::from_memory(valid().config.dump(), bytes, ValueCheck::kAll);
    expect_same_tensors(checkpoint, valid());
    ++header_length;
    std::memcpy(bytes.data(), &header_length, 8);
    bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(7 + header_length), std::byte{' '});
  }
}

TEST(Checkpoint, LegacySpellings) {
  CheckpointContents legacy;
  legacy.config = valid().config;
  for (const auto& [name, tensor] : valid().tensors) {
    std::string renamed = "model." + name;
    const auto replace = [&](const std::string& from, const std::string& to) {
      const size_t at = renamed.find(from);
      if (at != std::string::npos) renamed.replace(at, from.size(), to);
    };
    replace(".attn.", ".self_attn.");
    replace(".ffn.", ".mlp.");
    replace(".gate.bias", ".gate.e_score_correction_bias");
    if (renamed.ends_with(".scale")) replace(".scale", ".weight_scale_inv");
    legacy.tensors[renamed] = tensor;
  }
  const TempDir dir;
  test::write_checkpoint(dir.path(), legacy);
  expect_same_tensors(Checkpoint::open(dir.path()), valid());
}

TEST(Checkpoint, OneTensorUnderTwoSpellings) {
  EXPECT_EQ(error_after([](auto& c) { c.tensors["model.norm.weight"] = c.at("norm.weight"); }),
            "norm.weight: the files have it twice, as model.norm.weight and as norm.weight");
}

TEST(Checkpoint, WithoutAnMtpBlock) {
  const TempDir dir;
  const CheckpointContents contents = random_checkpoint(small_config(), 2, false);
  test::write_checkpoint(dir.path(), contents);
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  EXPECT_FALSE(checkpoint.has_mtp());
  EXPECT_EQ(checkpoint.num_experts().size(), 4u);
  ASSERT_EQ(checkpoint.messages().size(), 1u);
  EXPECT_EQ(checkpoint.messages()[0], "no mtp.* tensors, although num_nextn_predict_layers is 1: the model has no MTP block");
  expect_same_tensors(checkpoint, contents);
}

TEST(Checkpoint, CopiesOfTheMainTablesInTheMtpBlockAreIgnored) {
  CheckpointContents contents = valid();
  contents.tensors["mtp.0.embed_tokens.weight"] = contents.at("embed.weight");
  contents.tensors["mtp.0.emb.tok_emb.weight"] = contents.at("embed.weight");
  contents.tensors["mtp.0.head.weight"] = contents.at("head.weight");
  contents.tensors["mtp.0.shared_head.weight"] = contents.at("head.weight");
  const TempDir dir;
  test::write_checkpoint(dir.path(), contents);
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  EXPECT_TRUE(checkpoint.has_mtp());
  EXPECT_TRUE(checkpoint.messages().empty());
  expect_same_tensors(checkpoint, valid());
}

TEST(Checkpoint, MtpTensorsWithoutMtpInTheConfiguration) {
  CheckpointContents contents = valid();
  contents.config["num_nextn_predict_layers"] = 0;
  const TempDir dir;
  test::write_checkpoint(dir.path(), contents);
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  EXPECT_FALSE(checkpoint.has_mtp());
  ASSERT_EQ(checkpoint.messages().size(), 1u);
  EXPECT_TRUE(checkpoint.messages()[0].ends_with(", …")) << checkpoint.messages()[0];
  EXPECT_NE(checkpoint.messages()[0].find("tensors unknown and ignored: mtp.0.attn.attn_sink, mtp.0.attn.kv_norm.weight"),
            std::string::npos);
}

TEST(Checkpoint, DraftHeadOfTheLaterRevisionIsSkipped) {
  CheckpointContents contents = random_checkpoint(small_config(), 3, false);
  contents.config["compress_ratios"] = {0, 128, 4, 4, 0, 0, 0};
  contents.config["dspark_block_size"] = 5;
  contents.tensors["mtp.0.main_proj.weight"] = {"F8_E4M3", {64, 192}, std::vector<uint8_t>(64 * 192, 1)};
  contents.tensors["mtp.0.main_proj.scale"] = {"F8_E8M0", {1, 2}, {120, 120}};
  contents.tensors["mtp.2.markov_head.markov_w1.weight"] = {"BF16", {96, 8}, std::vector<uint8_t>(96 * 16)};
  const TempDir dir;
  test::write_checkpoint(dir.path(), contents);
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  EXPECT_TRUE(checkpoint.has_draft_head());
  EXPECT_FALSE(checkpoint.has_mtp());
  ASSERT_EQ(checkpoint.messages().size(), 1u);
  EXPECT_EQ(checkpoint.messages()[0], "mtp.*: the draft head of a later revision (mtp.0.main_proj); it is not used");
}

TEST(Checkpoint, PrunedExperts) {
  const std::vector<int> num_experts = {3, 4, 2, 3, 4};
  const CheckpointContents contents = random_checkpoint(small_config(), 4, true, num_experts);
  const TempDir dir;
  test::write_checkpoint(dir.path(), contents);
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  EXPECT_EQ(checkpoint.num_experts(), num_experts);
  EXPECT_EQ(checkpoint.num_experts(2), 2);
  ASSERT_EQ(checkpoint.messages().size(), 1u);
  EXPECT_EQ(checkpoint.messages()[0], "2 to 4 routed experts per layer, config.json says 4");
  expect_same_tensors(checkpoint, contents);
}

TEST(Checkpoint, Fp8Experts) {
  ModelConfig config = small_config();
  config.expert_dtype = ExpertFormat::kFp8;
  const CheckpointContents contents = random_checkpoint(config, 5);
  EXPECT_EQ(contents.config.count("expert_dtype"), 0u);
  const TempDir dir;
  test::write_checkpoint(dir.path(), contents);
  const Checkpoint checkpoint = Checkpoint::open(dir.path(), ValueCheck::kAll);
  EXPECT_EQ(checkpoint.tensor("layers.1.ffn.experts.0.w1.weight").dtype, DType::kF8E4M3);
  expect_same_tensors(checkpoint, contents);
}

TEST(Checkpoint, ExpertDtypeMustFitTheFiles) {
  EXPECT_EQ(error_after([](auto& c) { c.config.erase("expert_dtype"); }),
            "layers.0.ffn.experts.0.w1.weight: dtype I8, expected F8_E4M3 (config.json: expert_dtype is not fp4)");
}

TEST(Checkpoint, MissingTensors) {
  EXPECT_EQ(error_after([](auto& c) { c.tensors.erase("norm.weight"); }), "1 tensor missing: norm.weight");
  EXPECT_EQ(error_after([](auto& c) {
              for (const char* name : {"layers.0.attn_norm.weight", "layers.1.attn.wkv.scale", "layers.2.attn.indexer.wq_b.weight",
                                       "layers.3.ffn.gate.bias", "mtp.0.e_proj.scale"}) {
                c.tensors.erase(name);
              }
            }),
            "5 tensors missing: layers.0.attn_norm.weight, layers.1.attn.wkv.scale, layers.2.attn.indexer.wq_b.weight, "
            "layers.3.ffn.gate.bias, …");
  EXPECT_EQ(error_after([](auto& c) { c.tensors.erase("layers.1.ffn.gate.weight"); }), "1 tensor missing: layers.1.ffn.gate.weight");
  EXPECT_EQ(error_after([](auto& c) { c.rename("layers.1.attn.wkv.weight", "layers.1.attn.wkw.weight"); }),
            "1 tensor missing: layers.1.attn.wkv.weight");
  // 6 of the whole model, 53 per layer, 4 in the HCA layer's compressor, 4 + 7 in each CSA layer's compressor and indexer.
  EXPECT_EQ(error_after([](auto& c) {
              const test::TensorData other = c.at("norm.weight");
              c.tensors.clear();
              c.tensors["other"] = other;
            }),
            "244 tensors missing: embed.weight, head.weight, hc_head_fn, hc_head_base, …");
}

TEST(Checkpoint, TransformersNamesAreRecognised) {
  const std::string error = error_after([](auto& c) {
    c.rename("embed.weight", "model.embed_tokens.weight");
    c.rename("head.weight", "lm_head.weight");
  });
  EXPECT_EQ(error, "2 tensors missing: embed.weight, head.weight; the names are those of Transformers, expected the official ones");
}

TEST(Checkpoint, DtypesAndShapes) {
  EXPECT_EQ(error_after([](auto& c) { c.at("layers.3.attn.wq_b.scale").shape = {1, 1}; }), "");
  EXPECT_EQ(error_after([](auto& c) {
              auto& tensor = c.at("layers.3.attn.wq_b.scale");
              tensor.shape = {1, 2};
              tensor.bytes.push_back(120);
            }),
            "layers.3.attn.wq_b.scale: shape [1,2], expected [1,1]");
  EXPECT_EQ(error_after([](auto& c) { c.at("norm.weight").shape = {64, 1}; }), "norm.weight: shape [64,1], expected [64]");
  EXPECT_EQ(error_after([](auto& c) { c.at("embed.weight").shape = {64, 96}; }), "embed.weight: shape [64,96], expected [96,64]");
  EXPECT_EQ(error_after([](auto& c) {
              auto& tensor = c.at("norm.weight");
              tensor.dtype = "F32";
              tensor.shape = {32};
            }),
            "norm.weight: dtype F32, expected BF16");
  EXPECT_EQ(error_after([](auto& c) { c.at("layers.1.attn.wkv.weight").dtype = "I8"; }),
            "layers.1.attn.wkv.weight: dtype I8, expected F8_E4M3");
  EXPECT_EQ(error_after([](auto& c) {
              c.at("layers.0.ffn.gate.tid2eid").shape = {2, 96};
            }),
            "layers.0.ffn.gate.tid2eid: shape [2,96], expected [96,2]");
  EXPECT_EQ(error_after([](auto& c) { c.at("layers.1.ffn.experts.2.w2.scale").dtype = "I8"; }),
            "layers.1.ffn.experts.2.w2.scale: dtype I8, expected F8_E8M0 (config.json: expert_dtype is fp4)");
}

TEST(Checkpoint, GatesWithImpossibleExpertCounts) {
  EXPECT_EQ(error_after([](auto& c) {
              auto& gate = c.at("layers.1.ffn.gate.weight");
              gate.shape = {1, 64};
              gate.bytes.resize(128);
            }),
            "layers.1.ffn.gate.weight: shape [1,64]: 1 experts, expected 2 to 4096");
  EXPECT_EQ(error_after([](auto& c) {
              auto& gate = c.at("layers.1.ffn.gate.weight");
              gate.shape = {5000, 64};
              gate.bytes.resize(5000 * 128);
            }),
            "layers.1.ffn.gate.weight: shape [5000,64]: 5000 experts, expected 2 to 4096");
  EXPECT_EQ(error_after([](auto& c) {
              auto& gate = c.at("layers.1.ffn.gate.weight");
              gate.shape = {8, 32};
            }),
            "layers.1.ffn.gate.weight: shape [8,32], expected [8,64]");
  EXPECT_EQ(error_after([](auto& c) { c.at("layers.1.ffn.gate.weight").shape = {4 * 64}; }),
            "layers.1.ffn.gate.weight: shape [256], expected [4,64]");
}

TEST(Checkpoint, UnknownTensorsAreNamed) {
  CheckpointContents contents = valid();
  contents.tensors["layers.1.attn.rotary.inv_freq"] = {"F32", {1}, {0, 0, 0, 0}};
  contents.tensors["layers.7.attn_norm.weight"] = contents.at("norm.weight");
  const TempDir dir;
  test::write_checkpoint(dir.path(), contents);
  const Checkpoint checkpoint = Checkpoint::open(dir.path());
  ASSERT_EQ(checkpoint.messages().size(), 1u);
  EXPECT_EQ(checkpoint.messages()[0], "2 tensors unknown and ignored: layers.1.attn.rotary.inv_freq, layers.7.attn_norm.weight");
  expect_same_tensors(checkpoint, valid());
}

TEST(Checkpoint, CompressorsThatTheConfigurationDoesNotKnow) {
  EXPECT_EQ(error_after([](auto& c) {
              c.config["compress_ratios"] = {0, 128, 4, 0, 0};
            }),
            "layers.3.attn.compressor.ape: in the files, but config.json: compress_ratios[3] is 0");
  EXPECT_EQ(error_after([](auto& c) {
              c.tensors["layers.1.attn.indexer.extra"] = {"F32", {1}, {0, 0, 0, 0}};
            }),
            "layers.1.attn.indexer.extra: in the files, but config.json: compress_ratios[1] is 128");
}

TEST(Checkpoint, ValuesNoModelCanHave) {
  EXPECT_EQ(error_after([](auto& c) { c.template set<uint8_t>("layers.2.ffn.experts.1.w3.scale", 5, 0xff); }),
            "layers.2.ffn.experts.1.w3.scale: NaN (0xff) at [2,1]");
  EXPECT_EQ(error_after([](auto& c) { c.template set<uint8_t>("mtp.0.e_proj.scale", 0, 0xff); }),
            "mtp.0.e_proj.scale: NaN (0xff) at [0,0]");
  EXPECT_EQ(error_after([](auto& c) { c.template set<uint8_t>("layers.1.attn.wq_a.weight", 65, 0x7f); }),
            "layers.1.attn.wq_a.weight: NaN (0x7f or 0xff) at [1,1]");
  EXPECT_EQ(error_after([](auto& c) { c.template set<float>("layers.1.attn.attn_sink", 1, std::numeric_limits<float>::quiet_NaN()); }),
            "layers.1.attn.attn_sink: nan, expected a finite value, at [1]");
  EXPECT_EQ(error_after([](auto& c) { c.template set<float>("hc_head_fn", 256, std::numeric_limits<float>::infinity()); }),
            "hc_head_fn: inf, expected a finite value, at [1,0]");
  EXPECT_EQ(error_after([](auto& c) { c.template set<uint16_t>("layers.3.attn.kv_norm.weight", 7, 0x7fc0); }),
            "layers.3.attn.kv_norm.weight: nan, expected a finite value, at [7]");
  EXPECT_EQ(error_after([](auto& c) { c.template set<int64_t>("layers.0.ffn.gate.tid2eid", 3, 4); }),
            "layers.0.ffn.gate.tid2eid: expert 4, expected 0 to 3, at [1,1]");
  EXPECT_EQ(error_after([](auto& c) { c.template set<int64_t>("layers.0.ffn.gate.tid2eid", 0, int64_t{1} << 32); }),
            "layers.0.ffn.gate.tid2eid: expert 4294967296, expected 0 to 3, at [0,0]");
}

TEST(Checkpoint, HeadersAloneAreEnoughWithoutValueChecks) {
  EXPECT_EQ(error_after([](auto& c) { c.template set<uint8_t>("mtp.0.e_proj.scale", 0, 0xff); }, ValueCheck::kNone), "");
}

TEST(Checkpoint, DirectoriesThatHoldNoModel) {
  const TempDir dir;
  const std::string path = dir.path().string();
  const auto open = [&] { return error_of([&] { Checkpoint::open(dir.path()); }); };
  EXPECT_EQ(error_of([&] { Checkpoint::open(dir / "absent"); }), path + "/absent: no such directory");
  test::write_file(dir / "file", "x");
  EXPECT_EQ(error_of([&] { Checkpoint::open(dir / "file"); }),
            path + "/file: not a directory, expected one with config.json and safetensors files");
  EXPECT_EQ(open(), path + "/config.json: No such file or directory");
  test::write_file(dir / "config.json", valid().config.dump());
  EXPECT_EQ(open(), path + ": neither model.safetensors nor model.safetensors.index.json");
  std::filesystem::create_directory(dir / "model.safetensors");
  EXPECT_EQ(open(), path + "/model.safetensors: a directory, expected a regular file");
  std::filesystem::remove(dir / "model.safetensors");
  std::filesystem::create_symlink("model.safetensors", dir / "model.safetensors");
  EXPECT_EQ(open(), path + "/model.safetensors: Too many levels of symbolic links");
  std::filesystem::create_symlink("loop", dir / "loop");
  EXPECT_EQ(error_of([&] { Checkpoint::open(dir / "loop"); }), path + "/loop: Too many levels of symbolic links");
}

// A valid file cut short anywhere in its data is refused by its header.
TEST(Checkpoint, TruncatedFile) {
  const auto bytes = test::safetensors_file(valid().tensors);
  const TempDir dir;
  test::write_checkpoint(dir.path(), valid());
  test::write_file(dir / "model.safetensors", std::span(bytes).first(bytes.size() - 1));
  const std::string error = error_of([&] { Checkpoint::open(dir.path()); });
  EXPECT_TRUE(error.starts_with("model.safetensors: ") && error.ends_with("; is it cut short?")) << error;
}

TEST(Checkpoint, BadConfigurationComesBeforeTheWeights) {
  EXPECT_EQ(error_after([](auto& c) { c.config["head_dim"] = 100; }),
            "config.json: head_dim: 100, expected a multiple of 64 from 64 to 512");
}

// The seeds of the fuzz target: a configuration, a zero byte, a safetensors file.
TEST(Checkpoint, FuzzSeedsAreWhatTheirNamesSay) {
  int num_valid = 0, num_bad = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::filesystem::path(DSV4_SOURCE_DIR) / "fuzz/seeds/checkpoint")) {
    const std::string seed = read_text_file(entry.path(), 1 << 20);
    const size_t zero = seed.find('\0');
    ASSERT_NE(zero, std::string::npos) << entry.path();
    const auto file = std::as_bytes(std::span(seed)).subspan(zero + 1);
    const std::string error = error_of([&] { Checkpoint::from_memory(std::string_view(seed).substr(0, zero), file, ValueCheck::kAll); });
    const bool valid_name = entry.path().filename().string().starts_with("valid_");
    EXPECT_EQ(error.empty(), valid_name) << entry.path() << ": " << error;
    ++(valid_name ? num_valid : num_bad);
  }
  EXPECT_EQ(num_valid, 4);
  EXPECT_EQ(num_bad, 6);
}

void expect_golden(const std::filesystem::path& directory, bool with_mtp) {
  const Checkpoint checkpoint = Checkpoint::open(directory, ValueCheck::kAll);
  EXPECT_EQ(checkpoint.has_mtp(), with_mtp);
  EXPECT_TRUE(checkpoint.messages().empty()) << checkpoint.messages().front();
  const auto specs = tensor_specs(checkpoint.config(), with_mtp);
  EXPECT_EQ(checkpoint.tensors().size(), specs.size());
  EXPECT_EQ(checkpoint.tensor_bytes(), sum_bytes(checkpoint.config(), specs).total);
}

TEST(Checkpoint, MiniGolden) {
  const auto directory = std::filesystem::path(DSV4_SOURCE_DIR) / "tests/data/mini";
  expect_golden(directory, true);
  const SafetensorsFile golden(directory / "golden.safetensors");
  ASSERT_NE(golden.find("prefill_logits"), nullptr);
  EXPECT_EQ(golden.find("prefill_logits")->shape, (Shape{140, 256}));
}

TEST(Checkpoint, OtherGoldens) {
  const auto goldens = std::filesystem::path(DSV4_SOURCE_DIR) / "../shared/goldens";
  if (!std::filesystem::exists(goldens)) GTEST_SKIP() << "no golden checkpoints beside the checkout";
  expect_golden(goldens / "mini", true);
  expect_golden(goldens / "small", true);
  expect_golden(goldens / "real_heads", false);  // sharded, with an index
}

}  // namespace
}  // namespace dsv4
