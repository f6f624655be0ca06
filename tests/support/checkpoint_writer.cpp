#include "support/checkpoint_writer.h"

#include <fmt/format.h>

#include <utility>

#include "model/tensor_specs.h"
#include "support/random_data.h"
#include "support/temp_dir.h"

namespace dsv4::test {
namespace {

template <typename T>
std::vector<uint8_t> to_bytes(const std::vector<T>& values) {
  std::vector<uint8_t> bytes(values.size() * sizeof(T));
  if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

// Values of a size that lets activations pass through the layers without growing or dying out.
std::vector<uint8_t> random_values(const TensorSpec& spec, int num_experts, Random& random) {
  const auto count = static_cast<size_t>(spec.num_elements());
  switch (spec.dtype) {
    case DType::kF8E4M3:
      return random_e4m3(random, count);
    case DType::kF8E8M0:
      return random_ue8m0(random, count, -8, -6);
    case DType::kI8:
      return random_bytes(random, count);
    case DType::kF32:
      return to_bytes(random_floats(random, count, 0.2f));
    case DType::kBf16: {
      std::vector<Bf16> values(count);
      const bool norm = spec.shape.size() == 1;
      for (Bf16& value : values) value = to_bf16(norm ? random.uniform(0.75f, 1.25f) : 0.1f * random.normal());
      return to_bytes(values);
    }
    default: {
      // tid2eid: distinct experts in each row.
      const auto row = static_cast<size_t>(spec.shape[1]);
      std::vector<int64_t> ids(count);
      for (size_t i = 0; i < count; i += row) {
        const int first = random.below(num_experts);
        for (size_t k = 0; k < row; ++k) ids[i + k] = (first + static_cast<int>(k)) % num_experts;
      }
      return to_bytes(ids);
    }
  }
}

}  // namespace

void CheckpointContents::rename(const std::string& from, const std::string& to) {
  auto node = tensors.extract(from);
  if (node.empty()) throw std::out_of_range(from);
  node.key() = to;
  tensors.insert(std::move(node));
}

ModelConfig small_config() {
  ModelConfig config;
  config.vocab_size = 96;
  config.hidden_size = 64;
  config.num_hidden_layers = 4;
  config.num_attention_heads = 2;
  config.head_dim = 64;
  config.q_lora_rank = 32;
  config.o_groups = 2;
  config.o_lora_rank = 32;
  config.sliding_window = 16;
  config.compress_ratios = {0, 128, 4, 4, 0};
  config.rope_factor = 4.0f;
  config.original_max_position_embeddings = 256;
  config.max_position_embeddings = 1024;
  config.index_n_heads = 2;
  config.index_head_dim = 64;
  config.index_topk = 8;
  config.n_routed_experts = 4;
  config.num_experts_per_tok = 2;
  config.moe_intermediate_size = 64;
  config.num_hash_layers = 1;
  return config;
}

CheckpointContents random_checkpoint(const ModelConfig& config, uint64_t seed, bool with_mtp, std::span<const int> num_experts) {
  CheckpointContents contents;
  contents.config = config_json(config);
  Random random(seed);
  for (const TensorSpec& spec : tensor_specs(config, with_mtp, num_experts)) {
    const int experts = spec.layer < 0 || num_experts.empty() ? config.n_routed_experts : num_experts[static_cast<size_t>(spec.layer)];
    contents.tensors[spec.name] = {dtype_name(spec.dtype), spec.shape, random_values(spec, experts, random)};
  }
  return contents;
}

std::vector<std::byte> safetensors_file(uint64_t header_length, std::string_view header, std::span<const uint8_t> data) {
  std::vector<std::byte> file;
  file.reserve(8 + header.size() + data.size());
  for (int i = 0; i < 8; ++i) file.push_back(static_cast<std::byte>(header_length >> (8 * i) & 0xff));
  for (const char c : header) file.push_back(static_cast<std::byte>(c));
  for (const uint8_t byte : data) file.push_back(static_cast<std::byte>(byte));
  return file;
}

std::vector<std::byte> safetensors_file(std::string_view header, std::span<const uint8_t> data) {
  return safetensors_file(header.size(), header, data);
}

std::vector<std::byte> safetensors_file(const std::map<std::string, TensorData>& tensors) {
  nlohmann::ordered_json header;
  header["__metadata__"] = {{"format", "pt"}};
  std::vector<uint8_t> data;
  for (const auto& [name, tensor] : tensors) {
    const size_t begin = data.size();
    data.insert(data.end(), tensor.bytes.begin(), tensor.bytes.end());
    header[name] = {{"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {begin, data.size()}}};
  }
  return safetensors_file(header.dump(), data);
}

void write_checkpoint(const std::filesystem::path& directory, const CheckpointContents& contents) {
  write_file(directory / "config.json", contents.config.dump(2));
  write_file(directory / "model.safetensors", safetensors_file(contents.tensors));
}

nlohmann::ordered_json write_sharded_checkpoint(const std::filesystem::path& directory, const CheckpointContents& contents,
                                                int num_shards) {
  write_file(directory / "config.json", contents.config.dump(2));
  std::vector<std::map<std::string, TensorData>> shards(static_cast<size_t>(num_shards));
  nlohmann::ordered_json index;
  size_t total_bytes = 0;
  size_t next = 0;
  for (const auto& [name, tensor] : contents.tensors) {
    const size_t shard_idx = next++ % shards.size();
    shards[shard_idx].emplace(name, tensor);
    total_bytes += tensor.bytes.size();
    index["weight_map"][name] = fmt::format("model-{:05}-of-{:05}.safetensors", shard_idx + 1, num_shards);
  }
  index["metadata"]["total_size"] = total_bytes;
  for (size_t i = 0; i < shards.size(); ++i) {
    write_file(directory / fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, num_shards), safetensors_file(shards[i]));
  }
  write_file(directory / "model.safetensors.index.json", index.dump(1));
  return index;
}

}  // namespace dsv4::test
