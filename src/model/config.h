// The model's configuration (spec section 1): the numbers of config.json, checked.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "ops/rope.h"
#include "ops/weight.h"

namespace dsv4 {

// Attention of a layer, by its compression ratio: 0, 4 or 128.
enum class LayerKind : uint8_t { kSwa, kCsa, kHca };

inline constexpr int kCsaRatio = 4;
inline constexpr int kHcaRatio = 128;

// Bounds on routed experts, per layer and in all layers: they bound the number of tensors a configuration can ask for. Pro has 384 and
// 62·384.
inline constexpr int kMaxRoutedExperts = 4096;
inline constexpr int64_t kMaxExpertsInAll = 131072;

// Fields carry the names of config.json; the comment gives the reference's own name where it differs. The defaults are Flash's.
struct ModelConfig {
  int vocab_size = 129280;
  int hidden_size = 4096;            // dim
  int num_hidden_layers = 43;        // n_layers
  int num_nextn_predict_layers = 1;  // n_mtp_layers
  int num_attention_heads = 64;      // n_heads
  int head_dim = 512;                // the rope dims included
  int qk_rope_head_dim = 64;         // rope_head_dim
  int q_lora_rank = 1024;
  int o_groups = 8;
  int o_lora_rank = 1024;
  int sliding_window = 128;                      // window_size; the current token included
  std::vector<int> compress_ratios;              // [num_hidden_layers + num_nextn_predict_layers], each 0, 4 or 128
  float rope_theta = 10000.0f;                   // SWA layers and MTP
  float compress_rope_theta = 160000.0f;         // CSA and HCA layers
  float rope_factor = 16.0f;                     // rope_scaling.factor
  int original_max_position_embeddings = 65536;  // original_seq_len
  float beta_fast = 32.0f;
  float beta_slow = 1.0f;
  int max_position_embeddings = 1048576;
  int index_n_heads = 64;
  int index_head_dim = 128;
  int index_topk = 512;
  int hc_mult = 4;
  int hc_sinkhorn_iters = 20;
  float hc_eps = 1e-6f;
  int n_routed_experts = 256;
  int n_shared_experts = 1;
  int num_experts_per_tok = 6;         // n_activated_experts
  int moe_intermediate_size = 2048;    // moe_inter_dim
  int num_hash_layers = 3;             // n_hash_layers
  float routed_scaling_factor = 1.5f;  // route_scale
  float swiglu_limit = 10.0f;
  float rms_norm_eps = 1e-6f;  // norm_eps
  ExpertFormat expert_dtype = ExpertFormat::kFp4;
  int bos_token_id = 0;
  int eos_token_id = 1;

  // `layer` runs over the main layers and then the MTP blocks (index num_hidden_layers …).
  int num_blocks() const { return num_hidden_layers + num_nextn_predict_layers; }
  bool is_mtp(int layer) const { return layer >= num_hidden_layers; }
  // Compression ratio of a layer; entries that compress_ratios lacks are 0 (spec 1.2).
  int ratio(int layer) const;
  LayerKind layer_kind(int layer) const;
  // Experts chosen by token id; never in an MTP block.
  bool is_hash_layer(int layer) const { return layer < num_hash_layers; }
  // Rotary settings of everything in this layer (spec 2.4).
  RopeConfig rope(int layer) const;
  // Rows of the mHC projection of a sub-layer: hc·(2 + hc), 24 for four streams (spec 2.3).
  int hc_rows() const { return hc_mult * (2 + hc_mult); }
  int heads_per_group() const { return num_attention_heads / o_groups; }
  // Output channels of a compressor's projections: two per entry dim for ratio 4, one for ratio 128 (spec 2.6).
  static int compressor_width(int ratio, int dim) { return ratio == kCsaRatio ? 2 * dim : dim; }
};

// Throws Error naming the first field that is out of range or does not fit the others, e.g.
// "config.json: head_dim: 100, expected a multiple of 64 from 64 to 512". `where` begins the line.
void validate(const ModelConfig& config, std::string_view where = "config.json");

// Reads the text of a config.json: official keys, the reference's own short names, and Transformers' nested rope_parameters, layer_types
// and mlp_layer_types where the flat keys are missing. The result is validated. Throws Error.
ModelConfig parse_config(std::string_view text, std::string_view where = "config.json");

// The model of the first `num_layers` layers, without MTP blocks. Throws Error unless it has so many.
ModelConfig first_layers(const ModelConfig& config, int num_layers);

// Reads a config.json file. Throws Error.
ModelConfig load_config(const std::filesystem::path& file);

// The configuration as an official-style config.json.
nlohmann::ordered_json config_json(const ModelConfig& config);

// Sampling defaults of generation_config.json.
struct GenerationDefaults {
  float temperature = 1.0f;
  float top_p = 1.0f;
};

// Reads generation_config.json; what is absent or unusable keeps its default, and a file that cannot be read gives all defaults.
GenerationDefaults load_generation_defaults(const std::filesystem::path& file);

}  // namespace dsv4
