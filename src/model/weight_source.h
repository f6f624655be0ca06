// Where the weights of a model come from: a checkpoint, or nowhere (random ones).
#pragma once

#include <span>
#include <string>

#include "model/weights.h"

namespace dsv4 {

// Brings tensors into a backend's memory, by their official names (spec 5.1).
class WeightSource {
 public:
  virtual ~WeightSource() = default;

  // A vector or a table as it is.
  virtual const void* array(const std::string& name) = 0;
  // Matrices `name`.weight, with `name`.scale where they have scales, in the backend's layout for the op that reads them.
  virtual Bf16Weight gate(const std::string& name) = 0;  // router
  virtual Bf16Weight bf16(const std::string& name) = 0;  // linear_bf16, linear_fp32
  virtual Fp8Weight fp8(const std::string& name) = 0;
  virtual ExpertMatrix expert(const std::string& name, ExpertFormat format, int rows, int cols) = 0;
};

// Puts a model's weights together. `num_experts` [number of blocks] gives the routed experts of each block.
ModelWeights build_weights(const ModelConfig& config, std::span<const int> num_experts, bool with_mtp, WeightSource& source,
                           Backend& backend);

}  // namespace dsv4
