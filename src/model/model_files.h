// The safetensors files of a model directory: one file, or shards with an index.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "model/safetensors.h"

namespace dsv4 {

struct ModelFiles {
  std::vector<SafetensorsFile> files;     // keep the bytes mapped
  std::vector<SafetensorsEntry> tensors;  // names as the files have them
  std::vector<std::string> messages;      // what was passed over
};

// Opens model.safetensors, or where there is none model.safetensors.index.json and the shards it names. Shards are plain file names in the
// same directory; every tensor of the index must be in the shard that the index says, and in no other. Throws Error.
ModelFiles open_model_files(const std::filesystem::path& directory);

}  // namespace dsv4
