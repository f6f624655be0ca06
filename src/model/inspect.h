// `dsv4 inspect`: what a model is, whether its files are whole, and what it needs.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model/checkpoint.h"
#include "model/config.h"
#include "model/memory_plan.h"
#include "model/tensor_specs.h"

namespace dsv4 {

struct Inspection {
  std::string path;
  ModelConfig config;
  bool has_weights = false;      // false: from a configuration alone
  std::vector<int> num_experts;  // per block
  bool with_mtp = false;
  WeightBytes bytes;
  std::vector<std::string> messages;
  MemoryPlan plan;
};

// Looks at a model directory, or at a configuration alone (a config.json file, or a directory without safetensors files), whose tensors are
// then what the configuration asks for. Files are opened and checked as Checkpoint::open does. Throws Error.
Inspection inspect(const std::filesystem::path& path, const MemoryRequest& request, ValueCheck check = ValueCheck::kStandard);

std::string inspection_text(const Inspection& inspection);
nlohmann::ordered_json inspection_json(const Inspection& inspection);

}  // namespace dsv4
