#include "model/inspect.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <system_error>

namespace dsv4 {
namespace {

constexpr std::array kDTypes = {DType::kI8, DType::kF8E8M0, DType::kF8E4M3, DType::kBf16, DType::kF32, DType::kI64, DType::kI32};

bool is_configuration_alone(const std::filesystem::path& path) {
  std::error_code error;
  if (std::filesystem::is_regular_file(path, error)) return true;
  if (!std::filesystem::is_directory(path, error)) return false;
  const auto exists = [&](const char* name) {
    return std::filesystem::symlink_status(path / name, error).type() != std::filesystem::file_type::not_found;
  };
  return exists("config.json") && !exists("model.safetensors") && !exists("model.safetensors.index.json");
}

// One letter per layer, in order.
std::string schedule(const ModelConfig& config) {
  std::string letters;
  for (int layer = 0; layer < config.num_hidden_layers; ++layer) {
    switch (config.layer_kind(layer)) {
      case LayerKind::kSwa:
        letters += 'S';
        break;
      case LayerKind::kCsa:
        letters += 'C';
        break;
      case LayerKind::kHca:
        letters += 'H';
        break;
    }
  }
  return letters;
}

const char* expert_format_name(ExpertFormat format) {
  return format == ExpertFormat::kFp4 ? "fp4" : "fp8";
}

// "284.33 B", or in millions for small models.
std::string parameters_text(int64_t count) {
  const auto number = static_cast<double>(count);
  return number >= 1e9 ? fmt::format("{:.2f} B", number / 1e9) : fmt::format("{:.2f} M", number / 1e6);
}

std::string experts_text(const std::vector<int>& num_experts) {
  const auto [low, high] = std::minmax_element(num_experts.begin(), num_experts.end());
  return *low == *high ? fmt::format("{}", *low) : fmt::format("{} to {}", *low, *high);
}

std::string configuration_text(const Inspection& inspection) {
  const ModelConfig& c = inspection.config;
  const std::string letters = schedule(c);
  const auto count = [&letters](char kind) { return std::count(letters.begin(), letters.end(), kind); };
  std::string text;
  const auto line = [&text](const char* name, const std::string& value) { text += fmt::format("{:<14}{}\n", name, value); };
  line("model", inspection.path);
  line("layers", fmt::format("{}: {} SWA, {} CSA, {} HCA; {} MTP", c.num_hidden_layers, count('S'), count('C'), count('H'),
                             inspection.with_mtp ? c.num_nextn_predict_layers : 0));
  line("schedule", letters);
  line("hidden", fmt::format("{}, {} streams, vocabulary {}", c.hidden_size, c.hc_mult, c.vocab_size));
  line("attention", fmt::format("{} heads × {}, q rank {}, {} output groups × rank {}, window {}", c.num_attention_heads, c.head_dim,
                                c.q_lora_rank, c.o_groups, c.o_lora_rank, c.sliding_window));
  if (count('C') > 0) line("indexer", fmt::format("{} heads × {}, top {}", c.index_n_heads, c.index_head_dim, c.index_topk));
  line("experts", fmt::format("{} routed ({}), {} per token, inner size {}, {} shared, hash routing in {} layers",
                              experts_text(inspection.num_experts), expert_format_name(c.expert_dtype), c.num_experts_per_tok,
                              c.moe_intermediate_size, c.n_shared_experts, c.num_hash_layers));
  line("context", fmt::format("{}, rope {} (compressed layers {}, YaRN {} × {})", c.max_position_embeddings, c.rope_theta,
                              c.compress_rope_theta, c.rope_factor, c.original_max_position_embeddings));
  line("parameters",
       fmt::format("{}, {} active", parameters_text(inspection.bytes.parameters), parameters_text(inspection.bytes.active_parameters)));
  line("tensors", inspection.has_weights ? fmt::format("{} in the files, every name, dtype and shape as expected",
                                                       grouped_digits(inspection.bytes.num_tensors))
                                         : fmt::format("{} expected (no weights here)", grouped_digits(inspection.bytes.num_tensors)));
  return text;
}

std::string bytes_text(const Inspection& inspection) {
  const WeightBytes& bytes = inspection.bytes;
  std::string text;
  const auto row = [&text](const std::string& name, int64_t value) {
    text += fmt::format("  {:<28}{:>22}{:>14}\n", name, grouped_digits(value), size_text(value));
  };
  text += "weights by part\n";
  for (int i = 0; i < kNumTensorCategories; ++i) {
    const auto category = static_cast<TensorCategory>(i);
    if (category != TensorCategory::kMtpJoin) row(category_name(category), bytes.of(category));
  }
  if (inspection.with_mtp) {
    row("MTP", bytes.mtp);
    row("  of which routed experts", bytes.mtp_routed_experts);
  }
  row("total", bytes.total);
  text += "weights by dtype\n";
  for (const DType dtype : kDTypes) {
    if (bytes.of(dtype) > 0) row(dtype_name(dtype), bytes.of(dtype));
  }
  return text;
}

}  // namespace

Inspection inspect(const std::filesystem::path& path, const MemoryRequest& request, ValueCheck check) {
  Inspection inspection;
  inspection.path = path.string();
  if (is_configuration_alone(path)) {
    inspection.config = load_config(std::filesystem::is_directory(path) ? path / "config.json" : path);
    inspection.with_mtp = inspection.config.num_nextn_predict_layers > 0;
    inspection.num_experts.assign(static_cast<size_t>(inspection.config.num_blocks()), inspection.config.n_routed_experts);
  } else {
    const Checkpoint checkpoint = Checkpoint::open(path, check);
    inspection.config = checkpoint.config();
    inspection.has_weights = true;
    inspection.with_mtp = checkpoint.has_mtp();
    inspection.num_experts = checkpoint.num_experts();
    inspection.messages = checkpoint.messages();
  }
  const std::vector<TensorSpec> specs = tensor_specs(inspection.config, inspection.with_mtp, inspection.num_experts);
  inspection.bytes = sum_bytes(inspection.config, specs);
  inspection.plan = plan_memory(inspection.config, specs, request);
  return inspection;
}

std::string inspection_text(const Inspection& inspection) {
  std::string text = configuration_text(inspection);
  for (const std::string& message : inspection.messages) text += fmt::format("{:<14}{}\n", "note", message);
  return text + bytes_text(inspection) + plan_text(inspection.plan);
}

nlohmann::ordered_json inspection_json(const Inspection& inspection) {
  nlohmann::ordered_json json;
  json["path"] = inspection.path;
  json["has_weights"] = inspection.has_weights;
  json["config"] = config_json(inspection.config);
  json["schedule"] = schedule(inspection.config);
  json["with_mtp"] = inspection.with_mtp;
  json["num_experts"] = inspection.num_experts;
  json["num_tensors"] = inspection.bytes.num_tensors;
  json["total_bytes"] = inspection.bytes.total;
  json["parameters"] = inspection.bytes.parameters;
  json["active_parameters"] = inspection.bytes.active_parameters;
  for (int i = 0; i < kNumTensorCategories; ++i) {
    const auto category = static_cast<TensorCategory>(i);
    if (category != TensorCategory::kMtpJoin) json["bytes_by_part"][category_name(category)] = inspection.bytes.of(category);
  }
  json["bytes_by_part"]["MTP"] = inspection.bytes.mtp;
  for (const DType dtype : kDTypes) json["bytes_by_dtype"][dtype_name(dtype)] = inspection.bytes.of(dtype);
  json["messages"] = inspection.messages;
  json["memory"] = plan_json(inspection.plan);
  return json;
}

}  // namespace dsv4
