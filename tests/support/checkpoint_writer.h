// Small random checkpoints in the official format, and every way to spoil them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/tensor.h"
#include "model/config.h"

namespace dsv4::test {

struct TensorData {
  std::string dtype;  // as the header spells it
  Shape shape;
  std::vector<uint8_t> bytes;
};

// What a model directory will hold. Tests change it before it is written.
struct CheckpointContents {
  nlohmann::ordered_json config;
  std::map<std::string, TensorData> tensors;

  TensorData& at(const std::string& name) { return tensors.at(name); }
  void rename(const std::string& from, const std::string& to);
  // Rewrites one element in place.
  template <typename T>
  void set(const std::string& name, size_t element, T value);
};

// 4 layers (SWA, HCA, CSA, CSA; the first routes by token id) and an MTP block; hidden 64, 2 heads × 64, 4 experts.
ModelConfig small_config();

// Random weights for every tensor that `config` asks for; `num_experts` per block, empty: n_routed_experts.
CheckpointContents random_checkpoint(const ModelConfig& config, uint64_t seed, bool with_mtp = true, std::span<const int> num_experts = {});

// A safetensors file of a header text (any text) and data.
std::vector<std::byte> safetensors_file(std::string_view header, std::span<const uint8_t> data);
// The same with an explicit header length field.
std::vector<std::byte> safetensors_file(uint64_t header_length, std::string_view header, std::span<const uint8_t> data);
// A well-formed file of these tensors, in the map's order.
std::vector<std::byte> safetensors_file(const std::map<std::string, TensorData>& tensors);

// Writes config.json and model.safetensors.
void write_checkpoint(const std::filesystem::path& directory, const CheckpointContents& contents);
// Writes config.json, `num_shards` shards model-0000i-of-0000n.safetensors (tensor i of the map in shard i mod n) and the index; returns
// the index.
nlohmann::ordered_json write_sharded_checkpoint(const std::filesystem::path& directory, const CheckpointContents& contents, int num_shards);

template <typename T>
void CheckpointContents::set(const std::string& name, size_t element, T value) {
  static_assert(std::is_trivially_copyable_v<T>);
  TensorData& tensor = at(name);
  if ((element + 1) * sizeof(T) > tensor.bytes.size()) throw std::out_of_range(name);
  std::memcpy(tensor.bytes.data() + element * sizeof(T), &value, sizeof(T));
}

}  // namespace dsv4::test
