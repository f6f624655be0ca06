#include "model/tensor_specs.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <set>
#include <string>

#include "support/checkpoint_writer.h"

namespace dsv4 {
namespace {

// The byte table of spec 5.3 for one model.
struct Published {
  const char* file;
  std::map<TensorCategory, int64_t> main;
  int64_t mtp;
  int64_t mtp_routed_experts;
  int64_t total;
  int64_t num_tensors;
  int64_t total_without_mtp;
  std::map<DType, int64_t> by_dtype;
  double parameters;         // 10^9
  double active_parameters;  // 10^9
};

const Published kPublished[] = {
    {"flash.json",
     {{TensorCategory::kRoutedExperts, 147'169'738'752},
      {TensorCategory::kAttention, 4'599'478'144},
      {TensorCategory::kSharedExperts, 1'082'196'480},
      {TensorCategory::kEmbedding, 1'059'061'760},
      {TensorCategory::kHead, 1'059'061'760},
      {TensorCategory::kCompressors, 525'722'624},
      {TensorCategory::kIndexers, 275'353'344},
      {TensorCategory::kMhc, 135'537'756},
      {TensorCategory::kRouters, 108'834'816},
      {TensorCategory::kNorms, 712'704},
      {TensorCategory::kMtpJoin, 0}},
     3'593'787'756,
     3'422'552'064,
     159'609'485'896,
     69'187,
     156'015'698'140,
     {{DType::kI8, 141'733'920'768},
      {DType::kF8E8M0, 8'858'737'664},
      {DType::kF8E4M3, 6'023'020'544},
      {DType::kBf16, 2'830'518'528},
      {DType::kF32, 144'672'072},
      {DType::kI64, 18'616'320},
      {DType::kI32, 0}},
     284.33,
     13.27},
    {"pro.json",
     {{TensorCategory::kRoutedExperts, 822'054'223'872},
      {TensorCategory::kAttention, 18'294'854'528},
      {TensorCategory::kSharedExperts, 4'029'923'520},
      {TensorCategory::kEmbedding, 1'853'358'080},
      {TensorCategory::kHead, 1'853'358'080},
      {TensorCategory::kCompressors, 1'344'566'272},
      {TensorCategory::kIndexers, 625'367'040},
      {TensorCategory::kMhc, 336'278'412},
      {TensorCategory::kRouters, 354'511'872},
      {TensorCategory::kNorms, 1'763'328},
      {TensorCategory::kMtpJoin, 0}},
     13'956'587'692,
     13'476'298'752,
     864'704'792'696,
     145'116,
     850'748'205'004,
     {{DType::kI8, 786'381'668'352},
      {DType::kF8E8M0, 49'150'268'416},
      {DType::kF8E4M3, 23'169'335'296},
      {DType::kBf16, 5'633'798'656},
      {DType::kF32, 351'105'656},
      {DType::kI64, 18'616'320},
      {DType::kI32, 0}},
     1573.0,
     48.85},
};

ModelConfig shipped(const std::string& name) {
  return load_config(std::filesystem::path(DSV4_SOURCE_DIR) / "models/configs" / name);
}

TEST(TensorSpecs, BytesOfTheRelease) {
  for (const Published& published : kPublished) {
    SCOPED_TRACE(published.file);
    const ModelConfig config = shipped(published.file);
    const std::vector<TensorSpec> specs = tensor_specs(config, true);
    const WeightBytes sums = sum_bytes(config, specs);
    EXPECT_EQ(sums.total, published.total);
    EXPECT_EQ(sums.num_tensors, published.num_tensors);
    ASSERT_EQ(published.main.size(), static_cast<size_t>(kNumTensorCategories));
    for (const auto& [category, bytes] : published.main) EXPECT_EQ(sums.of(category), bytes) << category_name(category);
    EXPECT_EQ(sums.mtp, published.mtp);
    EXPECT_EQ(sums.mtp_routed_experts, published.mtp_routed_experts);
    ASSERT_EQ(published.by_dtype.size(), static_cast<size_t>(kNumDTypes));
    for (const auto& [dtype, bytes] : published.by_dtype) EXPECT_EQ(sums.of(dtype), bytes) << dtype_name(dtype);
    EXPECT_NEAR(static_cast<double>(sums.parameters) / 1e9, published.parameters, published.parameters < 1000 ? 0.005 : 0.05);
    EXPECT_NEAR(static_cast<double>(sums.active_parameters) / 1e9, published.active_parameters, 0.005);

    const WeightBytes without_mtp = sum_bytes(config, tensor_specs(config, false));
    EXPECT_EQ(without_mtp.total, published.total_without_mtp);
    EXPECT_EQ(without_mtp.mtp, 0);
    EXPECT_EQ(without_mtp.main, sums.main);
  }
}

std::map<std::string, TensorSpec> by_name(const std::vector<TensorSpec>& specs) {
  std::map<std::string, TensorSpec> map;
  for (const TensorSpec& spec : specs) EXPECT_TRUE(map.emplace(spec.name, spec).second) << spec.name;
  return map;
}

TEST(TensorSpecs, NamesDtypesAndShapesOfFlash) {
  const auto specs = by_name(tensor_specs(shipped("flash.json"), true));
  const std::tuple<const char*, DType, Shape> expected[] = {
      {"embed.weight", DType::kBf16, {129280, 4096}},
      {"head.weight", DType::kBf16, {129280, 4096}},
      {"norm.weight", DType::kBf16, {4096}},
      {"hc_head_fn", DType::kF32, {4, 16384}},
      {"hc_head_base", DType::kF32, {4}},
      {"hc_head_scale", DType::kF32, {1}},
      {"layers.2.hc_attn_fn", DType::kF32, {24, 16384}},
      {"layers.2.hc_ffn_base", DType::kF32, {24}},
      {"layers.2.hc_ffn_scale", DType::kF32, {3}},
      {"layers.2.attn.attn_sink", DType::kF32, {64}},
      {"layers.2.attn.wq_a.scale", DType::kF8E8M0, {8, 32}},
      {"layers.2.attn.wq_b.weight", DType::kF8E4M3, {32768, 1024}},
      {"layers.2.attn.wq_b.scale", DType::kF8E8M0, {256, 8}},
      {"layers.2.attn.wkv.weight", DType::kF8E4M3, {512, 4096}},
      {"layers.2.attn.wo_a.scale", DType::kF8E8M0, {64, 32}},
      {"layers.2.attn.wo_b.weight", DType::kF8E4M3, {4096, 8192}},
      {"layers.2.attn.compressor.ape", DType::kF32, {4, 1024}},
      {"layers.3.attn.compressor.ape", DType::kF32, {128, 512}},
      {"layers.2.attn.compressor.wgate.weight", DType::kBf16, {1024, 4096}},
      {"layers.3.attn.compressor.wkv.weight", DType::kBf16, {512, 4096}},
      {"layers.3.attn.compressor.norm.weight", DType::kBf16, {512}},
      {"layers.2.attn.indexer.wq_b.weight", DType::kF8E4M3, {8192, 1024}},
      {"layers.2.attn.indexer.weights_proj.weight", DType::kBf16, {64, 4096}},
      {"layers.2.attn.indexer.compressor.ape", DType::kF32, {4, 256}},
      {"layers.2.attn.indexer.compressor.wkv.weight", DType::kBf16, {256, 4096}},
      {"layers.2.attn.indexer.compressor.norm.weight", DType::kBf16, {128}},
      {"layers.2.ffn.gate.tid2eid", DType::kI64, {129280, 6}},
      {"layers.3.ffn.gate.bias", DType::kF32, {256}},
      {"layers.3.ffn.gate.weight", DType::kBf16, {256, 4096}},
      {"layers.3.ffn.experts.255.w1.weight", DType::kI8, {2048, 2048}},
      {"layers.3.ffn.experts.0.w3.scale", DType::kF8E8M0, {2048, 128}},
      {"layers.3.ffn.experts.0.w2.weight", DType::kI8, {4096, 1024}},
      {"layers.3.ffn.experts.0.w2.scale", DType::kF8E8M0, {4096, 64}},
      {"layers.3.ffn.shared_experts.w1.scale", DType::kF8E8M0, {16, 32}},
      {"layers.3.ffn.shared_experts.w2.weight", DType::kF8E4M3, {4096, 2048}},
      {"mtp.0.e_proj.weight", DType::kF8E4M3, {4096, 4096}},
      {"mtp.0.h_proj.scale", DType::kF8E8M0, {32, 32}},
      {"mtp.0.enorm.weight", DType::kBf16, {4096}},
      {"mtp.0.norm.weight", DType::kBf16, {4096}},
      {"mtp.0.hc_head_fn", DType::kF32, {4, 16384}},
      {"mtp.0.ffn.gate.bias", DType::kF32, {256}},
      {"mtp.0.attn.wq_a.weight", DType::kF8E4M3, {1024, 4096}},
  };
  for (const auto& [name, dtype, shape] : expected) {
    const auto found = specs.find(name);
    ASSERT_NE(found, specs.end()) << name;
    EXPECT_EQ(found->second.dtype, dtype) << name;
    EXPECT_EQ(found->second.shape, shape) << name;
  }
  for (const char* absent : {"layers.0.attn.compressor.ape", "layers.3.attn.indexer.wq_b.weight", "layers.2.ffn.gate.bias",
                             "layers.3.ffn.gate.tid2eid", "layers.3.ffn.experts.256.w1.weight", "layers.43.attn_norm.weight",
                             "mtp.0.ffn.gate.tid2eid", "mtp.1.e_proj.weight", "mtp.0.embed.weight", "mtp.0.head.weight"}) {
    EXPECT_FALSE(specs.contains(absent)) << absent;
  }
}

TEST(TensorSpecs, Fp8ExpertsHaveBlockScales) {
  ModelConfig config = test::small_config();
  config.expert_dtype = ExpertFormat::kFp8;
  config.hidden_size = 160;
  config.moe_intermediate_size = 288;
  const auto specs = by_name(tensor_specs(config, true));
  EXPECT_EQ(specs.at("layers.1.ffn.experts.3.w1.weight").dtype, DType::kF8E4M3);
  EXPECT_EQ(specs.at("layers.1.ffn.experts.3.w1.weight").shape, (Shape{288, 160}));
  EXPECT_EQ(specs.at("layers.1.ffn.experts.3.w1.scale").shape, (Shape{3, 2}));
  EXPECT_EQ(specs.at("layers.1.ffn.experts.3.w2.weight").shape, (Shape{160, 288}));
  EXPECT_EQ(specs.at("layers.1.ffn.experts.3.w2.scale").shape, (Shape{2, 3}));
}

TEST(TensorSpecs, ExpertCountsPerBlock) {
  const ModelConfig config = test::small_config();
  const std::vector<int> num_experts = {2, 4, 3, 2, 4};
  const auto specs = by_name(tensor_specs(config, true, num_experts));
  EXPECT_FALSE(specs.contains("layers.0.ffn.experts.2.w1.weight"));
  EXPECT_TRUE(specs.contains("layers.2.ffn.experts.2.w1.weight"));
  EXPECT_FALSE(specs.contains("layers.2.ffn.experts.3.w1.weight"));
  EXPECT_EQ(specs.at("layers.2.ffn.gate.weight").shape, (Shape{3, 64}));
  EXPECT_EQ(specs.at("layers.2.ffn.gate.bias").shape, (Shape{3}));
  EXPECT_TRUE(specs.contains("mtp.0.ffn.experts.3.w2.scale"));
}

TEST(TensorSpecs, WhatTensorParallelismSplits) {
  std::set<std::string> split;
  for (const TensorSpec& spec : tensor_specs(test::small_config(), true)) {
    const bool in_block = spec.layer == 2 || spec.layer < 0;
    if (spec.split_over_gpus && in_block && spec.name.find("experts.") == std::string::npos) split.insert(spec.name);
    if (spec.name.find("experts.") != std::string::npos) {
      EXPECT_EQ(spec.split_over_gpus, spec.name.find("shared_experts.") == std::string::npos) << spec.name;
    }
  }
  const std::string attn = "layers.2.attn.";
  EXPECT_EQ(split,
            (std::set<std::string>{"embed.weight", "head.weight", attn + "attn_sink", attn + "wq_b.weight", attn + "wq_b.scale",
                                   attn + "wo_a.weight", attn + "wo_a.scale", attn + "wo_b.weight", attn + "wo_b.scale",
                                   attn + "indexer.wq_b.weight", attn + "indexer.wq_b.scale", attn + "indexer.weights_proj.weight"}));
}

TEST(TensorSpecs, OfficialNames) {
  EXPECT_EQ(official_name("embed.weight"), "embed.weight");
  EXPECT_EQ(official_name("model.embed.weight"), "embed.weight");
  EXPECT_EQ(official_name("model.layers.3.self_attn.wq_b.weight_scale_inv"), "layers.3.attn.wq_b.scale");
  EXPECT_EQ(official_name("layers.3.mlp.gate.e_score_correction_bias"), "layers.3.ffn.gate.bias");
  EXPECT_EQ(official_name("model.mtp.0.mlp.shared_experts.w1.weight"), "mtp.0.ffn.shared_experts.w1.weight");
  // Only whole parts are spellings of their own.
  EXPECT_EQ(official_name("layers.3.self_attn_x.weight_scale"), "layers.3.self_attn_x.weight_scale");
  EXPECT_EQ(official_name("remodel.mlps"), "remodel.mlps");
  EXPECT_EQ(official_name("."), ".");
  EXPECT_EQ(official_name("mlp"), "ffn");
}

}  // namespace
}  // namespace dsv4
