#include "model/model_files.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <system_error>

#include "base/error.h"
#include "base/printable.h"
#include "model/file.h"
#include "model/strict_json.h"

namespace dsv4 {
namespace {

using nlohmann::json;

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr size_t kMaxIndexBytes = 100'000'000;
constexpr size_t kMaxIndexValues = 2'000'000;
constexpr size_t kMaxShards = 4096;

// A directory entry of that name exists, whatever it is: a symlink that leads nowhere is an error to report, not an absent file.
bool entry_exists(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::symlink_status(path, error).type() != std::filesystem::file_type::not_found;
}

void check_shard_name(const std::string& shard, const std::string& tensor) {
  const bool plain =
      shard.ends_with(".safetensors") && shard.size() <= 255 && shard.find_first_of(std::string("/\\\0", 3)) == std::string::npos;
  require(plain, "{}: {}: shard \"{}\", expected a plain file name ending in .safetensors", kIndexFile, printable(tensor),
          printable(shard));
}

using WeightMap = std::map<std::string, std::string, std::less<>>;

WeightMap read_weight_map(const json& index) {
  const auto found = index.is_object() ? index.find("weight_map") : index.end();
  require(index.is_object() && found != index.end() && found->is_object() && !found->empty(),
          "{}: weight_map: expected an object of shards by tensor", kIndexFile);
  WeightMap weight_map;
  for (const auto& [tensor, shard] : found->items()) {
    require(shard.is_string(), "{}: {}: expected the name of a shard", kIndexFile, printable(tensor));
    check_shard_name(shard.get_ref<const std::string&>(), tensor);
    weight_map.emplace(tensor, shard.get<std::string>());
  }
  return weight_map;
}

// A tensor of the index as the shards have it.
struct Location {
  const SafetensorsEntry* entry = nullptr;
  std::string_view shard;
};

// Where each tensor of the index really is. Tensors that the index does not name are passed over with a message per shard.
std::map<std::string_view, Location> locate(const std::map<std::string, size_t>& shards, const WeightMap& weight_map, ModelFiles& model) {
  std::map<std::string_view, Location> locations;
  for (const auto& [shard, file_idx] : shards) {
    size_t num_unnamed = 0;
    std::string first_unnamed;
    for (const SafetensorsEntry& entry : model.files[file_idx].tensors()) {
      if (!weight_map.contains(entry.name)) {
        if (num_unnamed++ == 0) first_unnamed = printable(entry.name);
        continue;
      }
      const auto [found, added] = locations.try_emplace(entry.name, Location{&entry, shard});
      require(added, "{}: in several shards: {} and {}", printable(entry.name), printable(found->second.shard), printable(shard));
    }
    if (num_unnamed > 0) {
      model.messages.push_back(fmt::format("{}: {} tensors are not in the index and are ignored: {}{}", printable(shard), num_unnamed,
                                           first_unnamed, num_unnamed > 1 ? ", …" : ""));
    }
  }
  return locations;
}

void compare_total_size(const json& index, ModelFiles& model) {
  const auto metadata = index.find("metadata");
  if (metadata == index.end() || !metadata->is_object()) return;
  const auto total = metadata->find("total_size");
  if (total == metadata->end()) return;
  uint64_t bytes = 0;
  for (const SafetensorsEntry& tensor : model.tensors) bytes += tensor.view.bytes;
  if (*total != bytes) {
    model.messages.push_back(fmt::format("{}: metadata.total_size is {}, the tensors have {} bytes", kIndexFile,
                                         printable(total->dump(-1, ' ', true), 30), bytes));
  }
}

ModelFiles open_shards(const std::filesystem::path& directory) {
  const json index = parse_strict_json(read_text_file(directory / kIndexFile, kMaxIndexBytes), kIndexFile, kMaxIndexValues);
  const WeightMap weight_map = read_weight_map(index);
  ModelFiles model;
  std::map<std::string, size_t> shards;
  for (const auto& [tensor, shard] : weight_map) {
    require(shards.contains(shard) || shards.size() < kMaxShards, "{}: more than {} shards", kIndexFile, kMaxShards);
    const auto [found, added] = shards.try_emplace(shard, model.files.size());
    if (added) model.files.emplace_back(directory / shard);
  }
  const auto locations = locate(shards, weight_map, model);
  for (const auto& [tensor, shard] : weight_map) {
    const auto found = locations.find(tensor);
    require(found != locations.end(), "{}: {}: not in {}, where the index says it is", kIndexFile, printable(tensor), printable(shard));
    require(found->second.shard == shard, "{}: {}: in {}, but the index says {}", kIndexFile, printable(tensor),
            printable(found->second.shard), printable(shard));
    model.tensors.push_back(*found->second.entry);
  }
  compare_total_size(index, model);
  return model;
}

}  // namespace

ModelFiles open_model_files(const std::filesystem::path& directory) {
  const bool has_index = entry_exists(directory / kIndexFile);
  if (!entry_exists(directory / kSingleFile)) {
    require(has_index, "{}: neither {} nor {}", directory.string(), kSingleFile, kIndexFile);
    return open_shards(directory);
  }
  ModelFiles model;
  model.files.emplace_back(directory / kSingleFile);
  model.tensors = model.files.front().tensors();
  if (has_index) model.messages.push_back(fmt::format("{} is used, {} is ignored", kSingleFile, kIndexFile));
  return model;
}

}  // namespace dsv4
