#include "model/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <string>

#include "support/checkpoint_writer.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace dsv4 {
namespace {

using nlohmann::ordered_json;
using test::error_of;
using test::small_config;

ordered_json small_json() {
  return config_json(small_config());
}

std::string error_of_json(const ordered_json& json) {
  return error_of([&] { parse_config(json.dump()); });
}

// The error after one top-level key was given another value.
std::string error_with(const std::string& key, const ordered_json& value) {
  ordered_json json = small_json();
  json[key] = value;
  return error_of_json(json);
}

ModelConfig load_shipped(const std::string& name) {
  return load_config(std::filesystem::path(DSV4_SOURCE_DIR) / "models/configs" / name);
}

TEST(Config, FlashIsAsSpecified) {
  const ModelConfig c = load_shipped("flash.json");
  EXPECT_EQ(c.vocab_size, 129280);
  EXPECT_EQ(c.hidden_size, 4096);
  EXPECT_EQ(c.num_hidden_layers, 43);
  EXPECT_EQ(c.num_nextn_predict_layers, 1);
  EXPECT_EQ(c.num_attention_heads, 64);
  EXPECT_EQ(c.head_dim, 512);
  EXPECT_EQ(c.qk_rope_head_dim, 64);
  EXPECT_EQ(c.q_lora_rank, 1024);
  EXPECT_EQ(c.o_groups, 8);
  EXPECT_EQ(c.heads_per_group(), 8);
  EXPECT_EQ(c.o_lora_rank, 1024);
  EXPECT_EQ(c.sliding_window, 128);
  EXPECT_EQ(c.rope_theta, 10000.0f);
  EXPECT_EQ(c.compress_rope_theta, 160000.0f);
  EXPECT_EQ(c.rope_factor, 16.0f);
  EXPECT_EQ(c.original_max_position_embeddings, 65536);
  EXPECT_EQ(c.beta_fast, 32.0f);
  EXPECT_EQ(c.beta_slow, 1.0f);
  EXPECT_EQ(c.max_position_embeddings, 1048576);
  EXPECT_EQ(c.index_n_heads, 64);
  EXPECT_EQ(c.index_head_dim, 128);
  EXPECT_EQ(c.index_topk, 512);
  EXPECT_EQ(c.hc_mult, 4);
  EXPECT_EQ(c.hc_rows(), 24);
  EXPECT_EQ(c.hc_sinkhorn_iters, 20);
  EXPECT_EQ(c.hc_eps, 1e-6f);
  EXPECT_EQ(c.n_routed_experts, 256);
  EXPECT_EQ(c.n_shared_experts, 1);
  EXPECT_EQ(c.num_experts_per_tok, 6);
  EXPECT_EQ(c.moe_intermediate_size, 2048);
  EXPECT_EQ(c.num_hash_layers, 3);
  EXPECT_EQ(c.routed_scaling_factor, 1.5f);
  EXPECT_EQ(c.swiglu_limit, 10.0f);
  EXPECT_EQ(c.rms_norm_eps, 1e-6f);
  EXPECT_EQ(c.expert_dtype, ExpertFormat::kFp4);
  EXPECT_EQ(c.bos_token_id, 0);
  EXPECT_EQ(c.eos_token_id, 1);
}

TEST(Config, ProDiffersFromFlashWhereItShould) {
  const ModelConfig c = load_shipped("pro.json");
  EXPECT_EQ(c.hidden_size, 7168);
  EXPECT_EQ(c.num_hidden_layers, 61);
  EXPECT_EQ(c.num_attention_heads, 128);
  EXPECT_EQ(c.q_lora_rank, 1536);
  EXPECT_EQ(c.o_groups, 16);
  EXPECT_EQ(c.index_topk, 1024);
  EXPECT_EQ(c.n_routed_experts, 384);
  EXPECT_EQ(c.moe_intermediate_size, 3072);
  EXPECT_EQ(c.routed_scaling_factor, 2.5f);
}

void expect_schedule(const ModelConfig& config, int num_swa, int num_csa, int num_hca) {
  int counts[3] = {};
  for (int layer = 0; layer < config.num_hidden_layers; ++layer) {
    ++counts[static_cast<int>(config.layer_kind(layer))];
    if (layer >= 2) {
      EXPECT_EQ(config.ratio(layer), layer % 2 == 0 ? 4 : 128) << layer;
    }
    EXPECT_EQ(config.is_hash_layer(layer), layer < 3) << layer;
  }
  EXPECT_EQ(counts[static_cast<int>(LayerKind::kSwa)], num_swa);
  EXPECT_EQ(counts[static_cast<int>(LayerKind::kCsa)], num_csa);
  EXPECT_EQ(counts[static_cast<int>(LayerKind::kHca)], num_hca);
  EXPECT_EQ(config.layer_kind(config.num_hidden_layers), LayerKind::kSwa);
  EXPECT_TRUE(config.is_mtp(config.num_hidden_layers));
  EXPECT_FALSE(config.is_mtp(config.num_hidden_layers - 1));
}

TEST(Config, SchedulesOfTheRelease) {
  expect_schedule(load_shipped("flash.json"), 2, 21, 20);
  expect_schedule(load_shipped("pro.json"), 0, 30, 31);
}

TEST(Config, RopeFollowsTheLayerKind) {
  const ModelConfig config = load_shipped("flash.json");
  EXPECT_EQ(config.rope(0).base, 10000.0f);
  EXPECT_FALSE(config.rope(0).yarn);
  for (const int layer : {2, 3}) {
    const RopeConfig rope = config.rope(layer);
    EXPECT_EQ(rope.rope_dim, 64);
    EXPECT_EQ(rope.base, 160000.0f);
    EXPECT_TRUE(rope.yarn);
    EXPECT_EQ(rope.factor, 16.0f);
    EXPECT_EQ(rope.original_max_position_embeddings, 65536);
    EXPECT_EQ(rope.beta_fast, 32.0f);
    EXPECT_EQ(rope.beta_slow, 1.0f);
  }
  EXPECT_FALSE(config.rope(config.num_hidden_layers).yarn);
}

TEST(Config, WritingAndReadingAgain) {
  for (const ModelConfig& config : {load_shipped("flash.json"), load_shipped("pro.json"), small_config()}) {
    const ModelConfig again = parse_config(config_json(config).dump());
    EXPECT_EQ(config_json(again), config_json(config));
    EXPECT_EQ(again.rms_norm_eps, config.rms_norm_eps);
    EXPECT_EQ(again.compress_ratios, config.compress_ratios);
  }
}

TEST(Config, ReferenceShortNames) {
  const std::pair<const char*, const char*> renamed[] = {
      {"hidden_size", "dim"},
      {"num_hidden_layers", "n_layers"},
      {"num_nextn_predict_layers", "n_mtp_layers"},
      {"num_attention_heads", "n_heads"},
      {"qk_rope_head_dim", "rope_head_dim"},
      {"sliding_window", "window_size"},
      {"num_experts_per_tok", "n_activated_experts"},
      {"moe_intermediate_size", "moe_inter_dim"},
      {"num_hash_layers", "n_hash_layers"},
      {"scoring_func", "score_func"},
      {"routed_scaling_factor", "route_scale"},
      {"rms_norm_eps", "norm_eps"},
  };
  ordered_json json = small_json();
  for (const auto& [official, name] : renamed) {
    json[name] = json[official];
    json.erase(official);
  }
  json["rope_factor"] = json["rope_scaling"]["factor"];
  json["original_seq_len"] = json["rope_scaling"]["original_max_position_embeddings"];
  json["beta_fast"] = json["rope_scaling"]["beta_fast"];
  json["beta_slow"] = json["rope_scaling"]["beta_slow"];
  json.erase("rope_scaling");
  json.erase("quantization_config");
  json["dtype"] = "fp8";
  json["scale_fmt"] = "ue8m0";
  EXPECT_EQ(config_json(parse_config(json.dump())), small_json());
}

TEST(Config, TransformersNestedSettings) {
  ordered_json json = small_json();
  json["rope_parameters"]["main"] = {{"rope_type", "default"}, {"rope_theta", json["rope_theta"]}};
  json["rope_parameters"]["compress"] = json["rope_scaling"];
  json["rope_parameters"]["compress"].erase("type");
  json["rope_parameters"]["compress"]["rope_type"] = "yarn";
  json["rope_parameters"]["compress"]["rope_theta"] = json["compress_rope_theta"];
  json["layer_types"] = {"sliding_attention", "heavily_compressed_attention", "compressed_sparse_attention", "compressed_sparse_attention"};
  json["mlp_layer_types"] = {"hash_moe", "moe", "moe", "moe"};
  for (const char* key : {"rope_theta", "compress_rope_theta", "rope_scaling", "compress_ratios", "num_hash_layers"}) json.erase(key);
  EXPECT_EQ(config_json(parse_config(json.dump())), small_json());

  json["mlp_layer_types"] = {"moe", "hash_moe", "moe", "moe"};
  EXPECT_EQ(error_of_json(json), "config.json: mlp_layer_types[1]: hash_moe, expected hash layers to come first");
  json["mlp_layer_types"] = {"hash_moe", "moe"};
  EXPECT_EQ(error_of_json(json), "config.json: mlp_layer_types: [\"hash_moe\",\"moe\"], expected a list of 4 entries");
  json["layer_types"][1] = "linear_attention";
  json["mlp_layer_types"] = {"hash_moe", "moe", "moe", "dense"};
  EXPECT_EQ(error_of_json(json),
            "config.json: layer_types[1]: \"linear_attention\", expected sliding_attention, compressed_sparse_attention or "
            "heavily_compressed_attention");
}

TEST(Config, ScheduleMayLackOrExceedItsEntries) {
  ordered_json json = small_json();
  json["compress_ratios"] = {0, 128, 4, 4};  // none for the MTP block
  EXPECT_EQ(parse_config(json.dump()).compress_ratios, (std::vector<int>{0, 128, 4, 4, 0}));
  json["compress_ratios"] = {0, 128, 4, 4, 0, 0, 0};
  EXPECT_EQ(parse_config(json.dump()).compress_ratios, (std::vector<int>{0, 128, 4, 4, 0}));
  json["compress_ratios"] = {0, 128};
  EXPECT_EQ(parse_config(json.dump()).compress_ratios, (std::vector<int>{0, 128, 0, 0, 0}));
  json["compress_ratios"] = {0, 128, 4, 4, 0, 4};
  EXPECT_EQ(error_of_json(json), "config.json: compress_ratios[5]: 4, expected nothing but 0 behind the model's 5 layers");
  json["compress_ratios"] = {0, 128, 4, 4, 4};
  EXPECT_EQ(error_of_json(json), "config.json: compress_ratios[4]: 4, expected 0 for an MTP block");
  json["compress_ratios"] = {0, 128, 8, 4};
  EXPECT_EQ(error_of_json(json), "config.json: compress_ratios[2]: 8, expected 0, 4 or 128");
  json["compress_ratios"] = {0, 128, 4.0, 4};
  EXPECT_EQ(error_of_json(json), "config.json: compress_ratios[2]: 4.0, expected 0, 4 or 128");
}

TEST(Config, AbsentValuesWithOneMeaning) {
  ordered_json json = small_json();
  for (const char* key : {"qk_rope_head_dim", "n_shared_experts", "num_key_value_heads", "num_nextn_predict_layers", "bos_token_id",
                          "eos_token_id", "max_position_embeddings", "model_type", "expert_dtype"}) {
    json.erase(key);
  }
  const ModelConfig config = parse_config(json.dump());
  EXPECT_EQ(config.qk_rope_head_dim, 64);
  EXPECT_EQ(config.n_shared_experts, 1);
  EXPECT_EQ(config.num_nextn_predict_layers, 0);
  EXPECT_EQ(config.bos_token_id, 0);
  EXPECT_EQ(config.eos_token_id, 1);
  EXPECT_EQ(config.max_position_embeddings, 4 * 256);
  EXPECT_EQ(config.expert_dtype, ExpertFormat::kFp8);
  json["expert_dtype"] = "fp8";
  EXPECT_EQ(parse_config(json.dump()).expert_dtype, ExpertFormat::kFp8);
}

TEST(Config, EveryOtherValueMustBeThere) {
  const std::pair<const char*, const char*> expectations[] = {
      {"vocab_size", "vocab_size: missing, expected an integer from 1 to 4194304"},
      {"hidden_size", "hidden_size: missing, expected a multiple of 32 from 32 to 65536"},
      {"num_hidden_layers", "num_hidden_layers: missing, expected an integer from 1 to 512"},
      {"num_attention_heads", "num_attention_heads: missing, expected an integer from 1 to 1024"},
      {"head_dim", "head_dim: missing, expected a multiple of 64 from 64 to 512"},
      {"q_lora_rank", "q_lora_rank: missing, expected an integer from 1 to 65536"},
      {"o_groups", "o_groups: missing, expected an integer from 1 to 1024"},
      {"o_lora_rank", "o_lora_rank: missing, expected an integer from 1 to 65536"},
      {"sliding_window", "sliding_window: missing, expected an integer from 1 to 65536"},
      {"compress_ratios", "compress_ratios: missing, expected a list of 5 ratios"},
      {"rope_theta", "rope_theta: missing, expected a number from 1 to 1000000000000"},
      {"compress_rope_theta", "compress_rope_theta: missing, expected a number from 1.5 to 1000000000000"},
      {"rope_scaling", "rope_scaling.original_max_position_embeddings: missing, expected an integer from 1 to 134217728"},
      {"index_n_heads", "index_n_heads: missing, expected an integer from 1 to 1024"},
      {"index_head_dim", "index_head_dim: missing, expected an integer from 64 to 512"},
      {"index_topk", "index_topk: missing, expected an integer from 1 to 65536"},
      {"hc_mult", "hc_mult: missing, expected an integer from 1 to 8"},
      {"hc_sinkhorn_iters", "hc_sinkhorn_iters: missing, expected an integer from 1 to 1000"},
      {"hc_eps", "hc_eps: missing, expected a number from 1e-30 to 1"},
      {"n_routed_experts", "n_routed_experts: missing, expected an integer from 1 to 4096"},
      {"num_experts_per_tok", "num_experts_per_tok: missing, expected an integer from 1 to 256"},
      {"moe_intermediate_size", "moe_intermediate_size: missing, expected a multiple of 32 from 32 to 65536"},
      {"num_hash_layers", "num_hash_layers: missing, expected an integer from 0 to 4"},
      {"routed_scaling_factor", "routed_scaling_factor: missing, expected a number from 1e-30 to 1000000"},
      {"swiglu_limit", "swiglu_limit: missing, expected a number from 1e-30 to 1000000"},
      {"rms_norm_eps", "rms_norm_eps: missing, expected a number from 1e-30 to 1"},
  };
  for (const auto& [key, expected] : expectations) {
    ordered_json json = small_json();
    json.erase(key);
    EXPECT_EQ(error_of_json(json), std::string("config.json: ") + expected);
  }
}

TEST(Config, IndexerAndYarnAreNeededOnlyWhereTheyAreUsed) {
  ordered_json json = small_json();
  json["compress_ratios"] = {0, 0, 0, 0, 0};
  for (const char* key : {"index_n_heads", "index_head_dim", "index_topk", "rope_scaling", "compress_rope_theta"}) json.erase(key);
  EXPECT_EQ(error_of_json(json), "");
}

TEST(Config, RangesAndTypes) {
  EXPECT_EQ(error_with("head_dim", 100), "config.json: head_dim: 100, expected a multiple of 64 from 64 to 512");
  EXPECT_EQ(error_with("head_dim", 576), "config.json: head_dim: 576, expected a multiple of 64 from 64 to 512");
  EXPECT_EQ(error_with("head_dim", 64.0), "config.json: head_dim: 64.0, expected a multiple of 64 from 64 to 512");
  EXPECT_EQ(error_with("head_dim", "64"), "config.json: head_dim: \"64\", expected a multiple of 64 from 64 to 512");
  EXPECT_EQ(error_with("head_dim", true), "config.json: head_dim: true, expected a multiple of 64 from 64 to 512");
  EXPECT_EQ(error_with("qk_rope_head_dim", 32), "config.json: qk_rope_head_dim: 32, expected 64");
  EXPECT_EQ(error_with("vocab_size", 0), "config.json: vocab_size: 0, expected an integer from 1 to 4194304");
  EXPECT_EQ(error_with("vocab_size", -1), "config.json: vocab_size: -1, expected an integer from 1 to 4194304");
  EXPECT_EQ(error_with("vocab_size", 18446744073709551615ull),
            "config.json: vocab_size: 18446744073709551615, expected an integer from 1 to 4194304");
  EXPECT_EQ(error_with("hidden_size", 4294967296), "config.json: hidden_size: 4294967296, expected a multiple of 32 from 32 to 65536");
  EXPECT_EQ(error_with("num_hidden_layers", 1000000000), "config.json: num_hidden_layers: 1000000000, expected an integer from 1 to 512");
  EXPECT_EQ(error_with("hc_mult", 9), "config.json: hc_mult: 9, expected an integer from 1 to 8");
  EXPECT_EQ(error_with("sliding_window", 0), "config.json: sliding_window: 0, expected an integer from 1 to 65536");
  EXPECT_EQ(error_with("n_shared_experts", 2), "config.json: n_shared_experts: 2, expected 1");
  EXPECT_EQ(error_with("index_head_dim", 96), "config.json: index_head_dim: 96, expected a power of two from 64 to 512");
  EXPECT_EQ(error_with("rms_norm_eps", -1e-6), "config.json: rms_norm_eps: -1e-06, expected a number from 1e-30 to 1");
  EXPECT_EQ(error_with("hc_eps", 0), "config.json: hc_eps: 0, expected a number from 1e-30 to 1");
  EXPECT_EQ(error_with("swiglu_limit", ordered_json::array()), "config.json: swiglu_limit: [], expected a number from 1e-30 to 1000000");
  EXPECT_EQ(error_with("expert_dtype", 4), "config.json: expert_dtype: 4, expected a string such as \"fp4\"");
  EXPECT_EQ(error_with("eos_token_id", ordered_json{1, 2}), "config.json: eos_token_id: [1,2], expected an integer from 0 to 4194304");
  EXPECT_EQ(error_with("compress_ratios", "auto"), "config.json: compress_ratios: \"auto\", expected a list of 5 entries");
}

TEST(Config, RelationsBetweenValues) {
  EXPECT_EQ(error_with("o_groups", 3), "config.json: num_attention_heads: 2, expected a multiple of o_groups (3)");
  EXPECT_EQ(error_with("num_experts_per_tok", 5), "config.json: num_experts_per_tok: 5, expected at most n_routed_experts (4)");
  EXPECT_EQ(error_with("num_hash_layers", 5), "config.json: num_hash_layers: 5, expected at most num_hidden_layers (4)");
  EXPECT_EQ(error_with("eos_token_id", 96), "config.json: eos_token_id: 96, expected less than vocab_size (96)");
  EXPECT_EQ(error_with("bos_token_id", 97), "config.json: bos_token_id: 97, expected less than vocab_size (96)");
  ordered_json json = small_json();
  json["num_hidden_layers"] = 512;
  json["n_routed_experts"] = 4096;
  EXPECT_EQ(error_of_json(json), "config.json: n_routed_experts: 4096 in each of 513 layers, expected at most 131072 in all");
  json = small_json();
  json["rope_scaling"]["beta_slow"] = 32;
  EXPECT_EQ(error_of_json(json), "config.json: rope_scaling.beta_slow: 32, expected less than beta_fast (32)");
}

TEST(Config, OnlyTheKnownVariants) {
  EXPECT_EQ(error_with("model_type", "deepseek_v3"), "config.json: model_type: \"deepseek_v3\", expected \"deepseek_v4\"");
  EXPECT_EQ(error_with("scoring_func", "sigmoid"), "config.json: scoring_func: \"sigmoid\", expected \"sqrtsoftplus\"");
  EXPECT_EQ(error_with("topk_method", "greedy"), "config.json: topk_method: \"greedy\", expected \"noaux_tc\"");
  EXPECT_EQ(error_with("hidden_act", "gelu"), "config.json: hidden_act: \"gelu\", expected \"silu\"");
  EXPECT_EQ(error_with("norm_topk_prob", false), "config.json: norm_topk_prob: false, expected true");
  EXPECT_EQ(error_with("tie_word_embeddings", true), "config.json: tie_word_embeddings: true, expected false");
  EXPECT_EQ(error_with("num_key_value_heads", 8), "config.json: num_key_value_heads: 8, expected 1");
  const auto quantization_error = [](const char* key, const ordered_json& value) {
    ordered_json json = small_json();
    json["quantization_config"][key] = value;
    return error_of_json(json);
  };
  EXPECT_EQ(quantization_error("weight_block_size", {64, 64}),
            "config.json: quantization_config.weight_block_size: [64,64], expected [128,128]");
  EXPECT_EQ(quantization_error("fmt", "e5m2"), "config.json: quantization_config.fmt: \"e5m2\", expected \"e4m3\"");
  EXPECT_EQ(quantization_error("scale_fmt", "float"), "config.json: quantization_config.scale_fmt: \"float\", expected \"ue8m0\"");
  EXPECT_EQ(quantization_error("quant_method", "awq"), "config.json: quantization_config.quant_method: \"awq\", expected \"fp8\"");
  ordered_json json = small_json();
  json["rope_scaling"]["type"] = "linear";
  EXPECT_EQ(error_of_json(json), "config.json: rope_scaling.type: \"linear\", expected \"yarn\"");
}

TEST(Config, TextThatIsNotAConfiguration) {
  const auto error_of_text = [](std::string_view text) { return error_of([&] { parse_config(text); }); };
  EXPECT_EQ(error_of_text(""), "config.json: not valid JSON at byte 1");
  EXPECT_EQ(error_of_text("{\"vocab_size\": 12"), "config.json: not valid JSON at byte 18");
  EXPECT_EQ(error_of_text("[1, 2]"), "config.json: [1,2], expected a JSON object");
  EXPECT_EQ(error_of_text("{\"hc_eps\": NaN}"), "config.json: not valid JSON at byte 12");
  EXPECT_EQ(error_of_text("{\"hc_eps\": 1e999}"), "config.json: a JSON number is out of range");
  EXPECT_EQ(error_of_text("{\"hc_eps\": 1, \"hc_eps\": 2}"), "config.json: key \"hc_eps\" occurs twice");
  EXPECT_EQ(error_of_text("{\"a\": " + std::string(100000, '[')), "config.json: JSON nested deeper than 32");
  EXPECT_EQ(error_of_text("{\"model_type\": \"a\\nb\"}"), "config.json: model_type: \"a\\nb\", expected \"deepseek_v4\"");
}

TEST(Config, ValidateRefusesNumbersThatJsonCannotSpell) {
  ModelConfig config = small_config();
  EXPECT_EQ(error_of([&] { validate(config); }), "");
  config.hc_eps = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(error_of([&] { validate(config); }), "config.json: hc_eps: nan, expected a number from 1e-30 to 1");
  config = small_config();
  config.routed_scaling_factor = std::numeric_limits<float>::infinity();
  EXPECT_EQ(error_of([&] { validate(config, "built"); }), "built: routed_scaling_factor: inf, expected a number from 1e-30 to 1000000");
  config = small_config();
  config.compress_ratios.pop_back();
  EXPECT_EQ(error_of([&] { validate(config); }), "config.json: compress_ratios: 4 entries, expected 5");
}

TEST(Config, FirstLayersKeepTheirKinds) {
  const ModelConfig flash = load_shipped("flash.json");
  for (int num_layers : {1, 2, 5, 43}) {
    const ModelConfig cut = first_layers(flash, num_layers);
    EXPECT_EQ(cut.num_hidden_layers, num_layers);
    EXPECT_EQ(cut.num_blocks(), num_layers);
    EXPECT_EQ(cut.num_hash_layers, std::min(3, num_layers));
    for (int layer = 0; layer < num_layers; ++layer) EXPECT_EQ(cut.ratio(layer), flash.ratio(layer)) << layer;
    EXPECT_EQ(cut.compress_ratios.size(), static_cast<size_t>(num_layers));
  }
  EXPECT_EQ(error_of([&] { first_layers(flash, 44); }), "44 layers, expected 1 to 43, which this model has");
  EXPECT_EQ(error_of([&] { first_layers(flash, 0); }), "0 layers, expected 1 to 43, which this model has");
}

TEST(Config, FilesThatCannotBeRead) {
  const test::TempDir dir;
  EXPECT_EQ(error_of([&] { load_config(dir / "config.json"); }), (dir / "config.json").string() + ": No such file or directory");
  EXPECT_EQ(error_of([&] { load_config(dir.path()); }), dir.path().string() + ": a directory, expected a regular file");
  test::write_file(dir / "config.json", std::string((1 << 20) + 1, ' '));
  EXPECT_EQ(error_of([&] { load_config(dir / "config.json"); }),
            (dir / "config.json").string() + ": 1048577 bytes, expected at most 1048576");
}

TEST(Config, GenerationDefaultsAreReadLeniently) {
  const test::TempDir dir;
  const auto read = [&](std::string_view text) {
    test::write_file(dir / "generation_config.json", text);
    return load_generation_defaults(dir / "generation_config.json");
  };
  EXPECT_EQ(load_generation_defaults(dir / "absent.json").temperature, 1.0f);
  GenerationDefaults defaults = read(R"({"do_sample": true, "temperature": 0.6, "top_p": 0.95, "unknown": []})");
  EXPECT_EQ(defaults.temperature, 0.6f);
  EXPECT_EQ(defaults.top_p, 0.95f);
  defaults = read(R"({"temperature": "hot", "top_p": 2})");
  EXPECT_EQ(defaults.temperature, 1.0f);
  EXPECT_EQ(defaults.top_p, 1.0f);
  EXPECT_EQ(read(R"({"do_sample": false, "temperature": 0.6})").temperature, 0.0f);
  EXPECT_EQ(read("not JSON").top_p, 1.0f);
}

}  // namespace
}  // namespace dsv4
