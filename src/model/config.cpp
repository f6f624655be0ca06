#include "model/config.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <string>

#include "base/error.h"
#include "base/printable.h"
#include "model/file.h"
#include "model/strict_json.h"

namespace dsv4 {
namespace {

using nlohmann::json;

constexpr size_t kMaxConfigBytes = 1 << 20;
constexpr size_t kMaxConfigValues = 100'000;
constexpr int kMaxLayers = 512;
constexpr int kMaxScheduleEntries = 4096;

// Which models need a value that config.json may lack.
enum class Need : uint8_t { kAlways, kCompressed, kCsa, kNever };

// The key paths that may hold a value, best first; nullptr ends the list.
using Keys = std::array<const char*, 3>;

struct IntField {
  Keys keys;
  int ModelConfig::*member;
  int low;
  int high;
  int multiple_of;
  Need need;
};

struct FloatField {
  Keys keys;
  float ModelConfig::*member;
  float low;
  float high;
  Need need;
};

using Mc = ModelConfig;

constexpr IntField kIntFields[] = {
    {{"vocab_size"}, &Mc::vocab_size, 1, 1 << 22, 1, Need::kAlways},
    {{"hidden_size", "dim"}, &Mc::hidden_size, 32, 65536, kFp4Block, Need::kAlways},
    {{"num_hidden_layers", "n_layers"}, &Mc::num_hidden_layers, 1, kMaxLayers, 1, Need::kAlways},
    {{"num_nextn_predict_layers", "n_mtp_layers"}, &Mc::num_nextn_predict_layers, 0, 8, 1, Need::kNever},
    {{"num_attention_heads", "n_heads"}, &Mc::num_attention_heads, 1, 1024, 1, Need::kAlways},
    {{"head_dim"}, &Mc::head_dim, 64, 512, kKvBlock, Need::kAlways},
    {{"qk_rope_head_dim", "rope_head_dim"}, &Mc::qk_rope_head_dim, 64, 64, 1, Need::kNever},
    {{"q_lora_rank"}, &Mc::q_lora_rank, 1, 65536, 1, Need::kAlways},
    {{"o_groups"}, &Mc::o_groups, 1, 1024, 1, Need::kAlways},
    {{"o_lora_rank"}, &Mc::o_lora_rank, 1, 65536, 1, Need::kAlways},
    {{"sliding_window", "window_size"}, &Mc::sliding_window, 1, 65536, 1, Need::kAlways},
    {{"rope_scaling.original_max_position_embeddings", "original_seq_len", "rope_parameters.compress.original_max_position_embeddings"},
     &Mc::original_max_position_embeddings,
     1,
     1 << 27,
     1,
     Need::kCompressed},
    {{"max_position_embeddings"}, &Mc::max_position_embeddings, 1, 1 << 27, 1, Need::kNever},
    {{"index_n_heads"}, &Mc::index_n_heads, 1, 1024, 1, Need::kCsa},
    {{"index_head_dim"}, &Mc::index_head_dim, 64, 512, 1, Need::kCsa},
    {{"index_topk"}, &Mc::index_topk, 1, 65536, 1, Need::kCsa},
    {{"hc_mult"}, &Mc::hc_mult, 1, 8, 1, Need::kAlways},
    {{"hc_sinkhorn_iters"}, &Mc::hc_sinkhorn_iters, 1, 1000, 1, Need::kAlways},
    {{"n_routed_experts"}, &Mc::n_routed_experts, 1, kMaxRoutedExperts, 1, Need::kAlways},
    {{"n_shared_experts"}, &Mc::n_shared_experts, 1, 1, 1, Need::kNever},
    {{"num_experts_per_tok", "n_activated_experts"}, &Mc::num_experts_per_tok, 1, 256, 1, Need::kAlways},
    {{"moe_intermediate_size", "moe_inter_dim"}, &Mc::moe_intermediate_size, 32, 65536, kFp4Block, Need::kAlways},
    {{"num_hash_layers", "n_hash_layers"}, &Mc::num_hash_layers, 0, kMaxLayers, 1, Need::kNever},
    {{"bos_token_id"}, &Mc::bos_token_id, 0, 1 << 22, 1, Need::kNever},
    {{"eos_token_id"}, &Mc::eos_token_id, 0, 1 << 22, 1, Need::kNever},
};

constexpr float kSmallest = 1e-30f;

constexpr FloatField kFloatFields[] = {
    {{"rope_theta", "rope_parameters.main.rope_theta"}, &Mc::rope_theta, 1.0f, 1e12f, Need::kAlways},
    {{"compress_rope_theta", "rope_parameters.compress.rope_theta"}, &Mc::compress_rope_theta, 1.5f, 1e12f, Need::kCompressed},
    {{"rope_scaling.factor", "rope_factor", "rope_parameters.compress.factor"}, &Mc::rope_factor, 1.0f, 1e6f, Need::kCompressed},
    {{"rope_scaling.beta_fast", "beta_fast", "rope_parameters.compress.beta_fast"}, &Mc::beta_fast, 1e-3f, 1e6f, Need::kCompressed},
    {{"rope_scaling.beta_slow", "beta_slow", "rope_parameters.compress.beta_slow"}, &Mc::beta_slow, 1e-3f, 1e6f, Need::kCompressed},
    {{"hc_eps"}, &Mc::hc_eps, kSmallest, 1.0f, Need::kAlways},
    {{"routed_scaling_factor", "route_scale"}, &Mc::routed_scaling_factor, kSmallest, 1e6f, Need::kAlways},
    {{"swiglu_limit"}, &Mc::swiglu_limit, kSmallest, 1e6f, Need::kAlways},
    {{"rms_norm_eps", "norm_eps"}, &Mc::rms_norm_eps, kSmallest, 1.0f, Need::kAlways},
};

// Values the engine knows only one of; where a key is absent nothing is asked.
struct FixedString {
  const char* key;
  const char* value;
};
constexpr FixedString kFixedStrings[] = {
    {"model_type", "deepseek_v4"},
    {"hidden_act", "silu"},
    {"scoring_func", "sqrtsoftplus"},
    {"score_func", "sqrtsoftplus"},
    {"topk_method", "noaux_tc"},
    {"scale_fmt", "ue8m0"},
    {"rope_scaling.type", "yarn"},
    {"rope_scaling.rope_type", "yarn"},
    {"rope_parameters.main.rope_type", "default"},
    {"rope_parameters.compress.rope_type", "yarn"},
    {"quantization_config.quant_method", "fp8"},
    {"quantization_config.fmt", "e4m3"},
    {"quantization_config.scale_fmt", "ue8m0"},
    {"quantization_config.activation_scheme", "dynamic"},
};

struct FixedBool {
  const char* key;
  bool value;
};
constexpr FixedBool kFixedBools[] = {{"norm_topk_prob", true}, {"tie_word_embeddings", false}, {"attention_bias", false}};

// A value of config.json in a message: short, on one line.
std::string shown(const json& value) {
  return printable(value.dump(-1, ' ', true, json::error_handler_t::replace), 60);
}

// The value at a dotted path; nullptr where a part is missing or null.
const json* at_path(const json& root, std::string_view path) {
  const json* node = &root;
  while (true) {
    if (!node->is_object()) return nullptr;
    const size_t dot = path.find('.');
    const auto child = node->find(std::string(path.substr(0, dot)));
    if (child == node->end() || child->is_null()) return nullptr;
    node = &*child;
    if (dot == std::string_view::npos) return node;
    path.remove_prefix(dot + 1);
  }
}

struct Found {
  const json* value = nullptr;
  const char* key = nullptr;
};

Found find_any(const json& root, const Keys& keys) {
  for (const char* key : keys) {
    if (!key) break;
    if (const json* value = at_path(root, key)) return {value, key};
  }
  return {};
}

std::string expectation(const IntField& field) {
  if (field.low == field.high) return fmt::format("{}", field.low);
  if (field.multiple_of > 1) return fmt::format("a multiple of {} from {} to {}", field.multiple_of, field.low, field.high);
  return fmt::format("an integer from {} to {}", field.low, field.high);
}

std::string expectation(const FloatField& field) {
  return fmt::format("a number from {} to {}", field.low, field.high);
}

bool fits(const IntField& field, int64_t value) {
  return value >= field.low && value <= field.high && value % field.multiple_of == 0;
}

// False for NaN too.
bool fits(const FloatField& field, double value) {
  return value >= double{field.low} && value <= double{field.high};
}

bool needed(Need need, const ModelConfig& config) {
  bool csa = false;
  bool compressed = false;
  for (const int ratio : config.compress_ratios) {
    csa = csa || ratio == kCsaRatio;
    compressed = compressed || ratio != 0;
  }
  return need == Need::kAlways || (need == Need::kCompressed && compressed) || (need == Need::kCsa && csa);
}

void read(const json& root, const IntField& field, ModelConfig& config, std::string_view where) {
  const Found found = find_any(root, field.keys);
  if (!found.value) {
    require(!needed(field.need, config), "{}: {}: missing, expected {}", where, field.keys[0], expectation(field));
    return;
  }
  const json& value = *found.value;
  const bool fits_64 =
      value.is_number_integer() && !(value.is_number_unsigned() && value.get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()});
  require(fits_64 && fits(field, value.get<int64_t>()), "{}: {}: {}, expected {}", where, found.key, shown(value), expectation(field));
  config.*field.member = static_cast<int>(value.get<int64_t>());
}

void read(const json& root, const FloatField& field, ModelConfig& config, std::string_view where) {
  const Found found = find_any(root, field.keys);
  if (!found.value) {
    require(!needed(field.need, config), "{}: {}: missing, expected {}", where, field.keys[0], expectation(field));
    return;
  }
  const json& value = *found.value;
  require(value.is_number() && fits(field, value.get<double>()), "{}: {}: {}, expected {}", where, found.key, shown(value),
          expectation(field));
  config.*field.member = value.get<float>();
}

// compress_ratios, or Transformers' layer_types. Entries past the last block must be 0 and are dropped; missing ones are 0.
void read_schedule(const json& root, ModelConfig& config, std::string_view where) {
  const auto num_blocks = static_cast<size_t>(config.num_blocks());
  const Found found = find_any(root, {"compress_ratios", "layer_types"});
  require(found.value != nullptr, "{}: compress_ratios: missing, expected a list of {} ratios", where, num_blocks);
  const json& list = *found.value;
  require(list.is_array() && list.size() <= kMaxScheduleEntries, "{}: {}: {}, expected a list of {} entries", where, found.key, shown(list),
          num_blocks);
  const bool by_type = found.key == std::string_view("layer_types");
  config.compress_ratios.assign(num_blocks, 0);
  for (size_t i = 0; i < list.size(); ++i) {
    const json& entry = list[i];
    int ratio = -1;
    if (by_type) {
      if (entry == "sliding_attention") ratio = 0;
      if (entry == "compressed_sparse_attention") ratio = kCsaRatio;
      if (entry == "heavily_compressed_attention") ratio = kHcaRatio;
      require(ratio >= 0,
              "{}: layer_types[{}]: {}, expected sliding_attention, compressed_sparse_attention or heavily_compressed_attention", where, i,
              shown(entry));
    } else {
      const bool known = entry.is_number_integer() && (entry == 0 || entry == kCsaRatio || entry == kHcaRatio);
      require(known, "{}: compress_ratios[{}]: {}, expected 0, 4 or 128", where, i, shown(entry));
      ratio = entry.get<int>();
    }
    require(i < num_blocks || ratio == 0, "{}: {}[{}]: {}, expected nothing but 0 behind the model's {} layers", where, found.key, i,
            shown(entry), num_blocks);
    if (i < num_blocks) config.compress_ratios[i] = ratio;
  }
}

// Transformers spells num_hash_layers as a list of layer types whose hash layers come first.
void read_hash_layers(const json& root, ModelConfig& config, std::string_view where) {
  if (find_any(root, {"num_hash_layers", "n_hash_layers"}).value) return;
  const json* list = at_path(root, "mlp_layer_types");
  require(list != nullptr, "{}: num_hash_layers: missing, expected an integer from 0 to {}", where, config.num_hidden_layers);
  require(list->is_array() && list->size() == static_cast<size_t>(config.num_hidden_layers),
          "{}: mlp_layer_types: {}, expected a list of {} entries", where, shown(*list), config.num_hidden_layers);
  config.num_hash_layers = 0;
  for (size_t i = 0; i < list->size(); ++i) {
    const json& entry = (*list)[i];
    const bool hash = entry == "hash_moe";
    require(hash || entry == "moe", "{}: mlp_layer_types[{}]: {}, expected hash_moe or moe", where, i, shown(entry));
    require(!hash || config.num_hash_layers == static_cast<int>(i), "{}: mlp_layer_types[{}]: hash_moe, expected hash layers to come first",
            where, i);
    if (hash) ++config.num_hash_layers;
  }
}

void check_fixed(const json& root, std::string_view where) {
  for (const FixedString& fixed : kFixedStrings) {
    const json* value = at_path(root, fixed.key);
    require(!value || *value == fixed.value, "{}: {}: {}, expected \"{}\"", where, fixed.key, value ? shown(*value) : "", fixed.value);
  }
  for (const FixedBool& fixed : kFixedBools) {
    const json* value = at_path(root, fixed.key);
    require(!value || *value == fixed.value, "{}: {}: {}, expected {}", where, fixed.key, value ? shown(*value) : "", fixed.value);
  }
  if (const json* value = at_path(root, "num_key_value_heads")) {
    require(*value == 1, "{}: num_key_value_heads: {}, expected 1", where, shown(*value));
  }
  if (const json* value = at_path(root, "quantization_config.weight_block_size")) {
    require(*value == json({kFp8Block, kFp8Block}), "{}: quantization_config.weight_block_size: {}, expected [{},{}]", where, shown(*value),
            kFp8Block, kFp8Block);
  }
}

ExpertFormat read_expert_dtype(const json& root, std::string_view where) {
  const json* value = at_path(root, "expert_dtype");
  if (!value) return ExpertFormat::kFp8;
  require(value->is_string(), "{}: expert_dtype: {}, expected a string such as \"fp4\"", where, shown(*value));
  return *value == "fp4" ? ExpertFormat::kFp4 : ExpertFormat::kFp8;
}

// max_position_embeddings where the file has none: the length that YaRN extends to.
int extended_positions(const ModelConfig& config) {
  constexpr double kLimit = 1 << 27;
  return static_cast<int>(std::fmin(kLimit, double{config.rope_factor} * config.original_max_position_embeddings));
}

// What ranges alone cannot say.
void check_relations(const ModelConfig& config, std::string_view where) {
  require(config.num_attention_heads % config.o_groups == 0, "{}: num_attention_heads: {}, expected a multiple of o_groups ({})", where,
          config.num_attention_heads, config.o_groups);
  require(std::has_single_bit(static_cast<unsigned>(config.index_head_dim)),
          "{}: index_head_dim: {}, expected a power of two from 64 to 512", where, config.index_head_dim);
  require(config.num_experts_per_tok <= config.n_routed_experts, "{}: num_experts_per_tok: {}, expected at most n_routed_experts ({})",
          where, config.num_experts_per_tok, config.n_routed_experts);
  require(config.num_hash_layers <= config.num_hidden_layers, "{}: num_hash_layers: {}, expected at most num_hidden_layers ({})", where,
          config.num_hash_layers, config.num_hidden_layers);
  const int64_t num_experts = int64_t{config.num_blocks()} * config.n_routed_experts;
  require(num_experts <= kMaxExpertsInAll, "{}: n_routed_experts: {} in each of {} layers, expected at most {} in all", where,
          config.n_routed_experts, config.num_blocks(), kMaxExpertsInAll);
  require(config.beta_slow < config.beta_fast, "{}: rope_scaling.beta_slow: {}, expected less than beta_fast ({})", where, config.beta_slow,
          config.beta_fast);
  require(config.bos_token_id < config.vocab_size, "{}: bos_token_id: {}, expected less than vocab_size ({})", where, config.bos_token_id,
          config.vocab_size);
  require(config.eos_token_id < config.vocab_size, "{}: eos_token_id: {}, expected less than vocab_size ({})", where, config.eos_token_id,
          config.vocab_size);
  require(config.compress_ratios.size() == static_cast<size_t>(config.num_blocks()), "{}: compress_ratios: {} entries, expected {}", where,
          config.compress_ratios.size(), config.num_blocks());
  for (int layer = 0; layer < config.num_blocks(); ++layer) {
    const int ratio = config.ratio(layer);
    require(ratio == 0 || ratio == kCsaRatio || ratio == kHcaRatio, "{}: compress_ratios[{}]: {}, expected 0, 4 or 128", where, layer,
            ratio);
    require(ratio == 0 || !config.is_mtp(layer), "{}: compress_ratios[{}]: {}, expected 0 for an MTP block", where, layer, ratio);
  }
}

}  // namespace

int ModelConfig::ratio(int layer) const {
  return layer >= 0 && static_cast<size_t>(layer) < compress_ratios.size() ? compress_ratios[static_cast<size_t>(layer)] : 0;
}

LayerKind ModelConfig::layer_kind(int layer) const {
  switch (ratio(layer)) {
    case 0:
      return LayerKind::kSwa;
    case kCsaRatio:
      return LayerKind::kCsa;
    default:
      return LayerKind::kHca;
  }
}

RopeConfig ModelConfig::rope(int layer) const {
  const bool compressed = ratio(layer) != 0;
  return {.rope_dim = qk_rope_head_dim,
          .base = compressed ? compress_rope_theta : rope_theta,
          .yarn = compressed,
          .factor = rope_factor,
          .original_max_position_embeddings = original_max_position_embeddings,
          .beta_fast = beta_fast,
          .beta_slow = beta_slow};
}

void validate(const ModelConfig& config, std::string_view where) {
  for (const IntField& field : kIntFields) {
    const int value = config.*field.member;
    require(fits(field, value), "{}: {}: {}, expected {}", where, field.keys[0], value, expectation(field));
  }
  for (const FloatField& field : kFloatFields) {
    const float value = config.*field.member;
    require(fits(field, value), "{}: {}: {}, expected {}", where, field.keys[0], value, expectation(field));
  }
  check_relations(config, where);
}

ModelConfig parse_config(std::string_view text, std::string_view where) {
  const json root = parse_strict_json(text, where, kMaxConfigValues);
  require(root.is_object(), "{}: {}, expected a JSON object", where, shown(root));
  check_fixed(root, where);
  ModelConfig config;
  config.num_nextn_predict_layers = 0;
  for (const IntField& field : kIntFields) {
    if (field.need == Need::kAlways || field.need == Need::kNever) read(root, field, config, where);
  }
  read_schedule(root, config, where);
  read_hash_layers(root, config, where);
  for (const IntField& field : kIntFields) {
    if (field.need == Need::kCsa || field.need == Need::kCompressed) read(root, field, config, where);
  }
  for (const FloatField& field : kFloatFields) read(root, field, config, where);
  config.expert_dtype = read_expert_dtype(root, where);
  if (!at_path(root, "max_position_embeddings")) config.max_position_embeddings = extended_positions(config);
  validate(config, where);
  return config;
}

ModelConfig first_layers(const ModelConfig& config, int num_layers) {
  require(num_layers >= 1 && num_layers <= config.num_hidden_layers, "{} layers, expected 1 to {}, which this model has", num_layers,
          config.num_hidden_layers);
  ModelConfig cut = config;
  cut.num_hidden_layers = num_layers;
  cut.num_nextn_predict_layers = 0;
  cut.num_hash_layers = std::min(config.num_hash_layers, num_layers);
  cut.compress_ratios.resize(static_cast<size_t>(num_layers));
  validate(cut, "the model cut to its first layers");
  return cut;
}

ModelConfig load_config(const std::filesystem::path& file) {
  return parse_config(read_text_file(file, kMaxConfigBytes), file.filename().string());
}

nlohmann::ordered_json config_json(const ModelConfig& config) {
  // Through their shortest decimal form, so that 1e-6f does not print as 9.999999974752427e-07.
  const auto number = [](float value) { return std::strtod(fmt::format("{}", value).c_str(), nullptr); };
  nlohmann::ordered_json out;
  out["architectures"] = {"DeepseekV4ForCausalLM"};
  out["attention_bias"] = false;
  out["attention_dropout"] = 0.0;
  out["bos_token_id"] = config.bos_token_id;
  out["compress_ratios"] = config.compress_ratios;
  out["compress_rope_theta"] = number(config.compress_rope_theta);
  out["eos_token_id"] = config.eos_token_id;
  if (config.expert_dtype == ExpertFormat::kFp4) out["expert_dtype"] = "fp4";
  out["hc_eps"] = number(config.hc_eps);
  out["hc_mult"] = config.hc_mult;
  out["hc_sinkhorn_iters"] = config.hc_sinkhorn_iters;
  out["head_dim"] = config.head_dim;
  out["hidden_act"] = "silu";
  out["hidden_size"] = config.hidden_size;
  out["index_head_dim"] = config.index_head_dim;
  out["index_n_heads"] = config.index_n_heads;
  out["index_topk"] = config.index_topk;
  out["initializer_range"] = 0.02;
  out["max_position_embeddings"] = config.max_position_embeddings;
  out["model_type"] = "deepseek_v4";
  out["moe_intermediate_size"] = config.moe_intermediate_size;
  out["n_routed_experts"] = config.n_routed_experts;
  out["n_shared_experts"] = config.n_shared_experts;
  out["norm_topk_prob"] = true;
  out["num_attention_heads"] = config.num_attention_heads;
  out["num_experts_per_tok"] = config.num_experts_per_tok;
  out["num_hash_layers"] = config.num_hash_layers;
  out["num_hidden_layers"] = config.num_hidden_layers;
  out["num_key_value_heads"] = 1;
  out["num_nextn_predict_layers"] = config.num_nextn_predict_layers;
  out["o_groups"] = config.o_groups;
  out["o_lora_rank"] = config.o_lora_rank;
  out["q_lora_rank"] = config.q_lora_rank;
  out["qk_rope_head_dim"] = config.qk_rope_head_dim;
  out["quantization_config"] = {{"activation_scheme", "dynamic"},
                                {"fmt", "e4m3"},
                                {"quant_method", "fp8"},
                                {"scale_fmt", "ue8m0"},
                                {"weight_block_size", {kFp8Block, kFp8Block}}};
  out["rms_norm_eps"] = number(config.rms_norm_eps);
  out["rope_scaling"] = {{"beta_fast", number(config.beta_fast)},
                         {"beta_slow", number(config.beta_slow)},
                         {"factor", number(config.rope_factor)},
                         {"original_max_position_embeddings", config.original_max_position_embeddings},
                         {"type", "yarn"}};
  out["rope_theta"] = number(config.rope_theta);
  out["routed_scaling_factor"] = number(config.routed_scaling_factor);
  out["scoring_func"] = "sqrtsoftplus";
  out["sliding_window"] = config.sliding_window;
  out["swiglu_limit"] = number(config.swiglu_limit);
  out["tie_word_embeddings"] = false;
  out["topk_method"] = "noaux_tc";
  out["torch_dtype"] = "bfloat16";
  out["use_cache"] = true;
  out["vocab_size"] = config.vocab_size;
  return out;
}

GenerationDefaults load_generation_defaults(const std::filesystem::path& file) {
  GenerationDefaults defaults;
  try {
    const json root = parse_strict_json(read_text_file(file, kMaxConfigBytes), file.filename().string(), kMaxConfigValues);
    const auto number = [&root](const char* key, double low, double high, float& value) {
      const json* found = at_path(root, key);
      if (found && found->is_number() && found->get<double>() >= low && found->get<double>() <= high) value = found->get<float>();
    };
    number("temperature", 0.0, 100.0, defaults.temperature);
    number("top_p", 1e-6, 1.0, defaults.top_p);
    const json* do_sample = at_path(root, "do_sample");
    if (do_sample && *do_sample == false) defaults.temperature = 0.0f;
  } catch (const Error&) {
    return {};
  }
  return defaults;
}

}  // namespace dsv4
