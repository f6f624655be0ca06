// The tensors a checkpoint must have (spec 5.1), from its configuration: names, dtypes, shapes, what they are part of, and their bytes
// (spec 5.3).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/tensor.h"
#include "model/config.h"

namespace dsv4 {

// Parts of the model, as the table of spec 5.3 has them.
enum class TensorCategory : uint8_t {
  kRoutedExperts,
  kAttention,  // wq_a … wo_b, q and kv norms, sinks
  kSharedExperts,
  kEmbedding,
  kHead,
  kCompressors,
  kIndexers,  // their compressors included
  kMhc,       // hc_head included
  kRouters,   // gate weight and bias or tid2eid
  kNorms,     // layer norms and the final norm
  kMtpJoin,   // e_proj, h_proj and their norms
};
inline constexpr int kNumTensorCategories = 11;
inline constexpr int kNumDTypes = 7;

// "routed experts", …
const char* category_name(TensorCategory category);

struct TensorSpec {
  std::string name;  // official
  DType dtype;
  Shape shape;
  TensorCategory category;
  int layer;             // −1: of the whole model; num_hidden_layers and on: an MTP block
  bool split_over_gpus;  // tensor parallelism divides it, otherwise every GPU has all of it (spec 2.13)

  int64_t num_elements() const;
  int64_t bytes() const { return num_elements() * static_cast<int64_t>(dtype_bytes(dtype)); }
};

// Name prefix of a block's tensors: "layers.3.", or "mtp.0." for the first block behind the main layers.
std::string block_prefix(const ModelConfig& config, int layer);

// Every tensor of the model, block by block. `num_experts` [≥ number of blocks] gives the routed experts of each block; empty:
// n_routed_experts in all. `config` must be valid.
std::vector<TensorSpec> tensor_specs(const ModelConfig& config, bool with_mtp, std::span<const int> num_experts = {});

// The official name of a tensor: without a leading "model.", self_attn → attn, mlp → ffn, weight_scale_inv → scale, e_score_correction_bias
// → bias.
std::string official_name(std::string_view name);

// Sums over a list of tensors.
struct WeightBytes {
  std::array<int64_t, kNumTensorCategories> main{};  // by category, without the MTP blocks
  int64_t mtp = 0;                                   // all MTP blocks
  int64_t mtp_routed_experts = 0;
  std::array<int64_t, kNumDTypes> by_dtype{};  // MTP included
  int64_t total = 0;
  int64_t num_tensors = 0;
  int64_t parameters = 0;         // main model, scales and tid2eid not counted, an FP4 pair counted as two
  int64_t active_parameters = 0;  // of these, what one token touches: num_experts_per_tok of each layer's experts, one embedding row

  int64_t of(TensorCategory category) const { return main[static_cast<size_t>(category)]; }
  int64_t of(DType dtype) const { return by_dtype[static_cast<size_t>(dtype)]; }
};

WeightBytes sum_bytes(const ModelConfig& config, std::span<const TensorSpec> specs);

}  // namespace dsv4
