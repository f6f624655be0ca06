// What a step must read and compute at least, from the configuration alone (spec section 8): the floor that measured times are held
// against. Activations, and what a kernel reads twice, are not counted.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "model/config.h"

namespace dsv4 {

// Bytes of one layer's weights by part, scales included.
struct LayerWeightBytes {
  int64_t core = 0;        // wq_a … wo_b, q and kv norms, sinks
  int64_t wo_a = 0;        // of these, the grouped projection
  int64_t expert = 0;      // one routed expert
  int64_t shared = 0;      // the shared expert
  int64_t compressor = 0;  // CSA and HCA
  int64_t indexer = 0;     // CSA; its compressor included
  int64_t mhc = 0;         // both hyper-connections
  int64_t router = 0;      // gate weight, and the bias of a scored layer
  int64_t router_row = 0;  // of a hash layer's table, one per token
  int64_t norms = 0;       // attn_norm, ffn_norm
};

// Bytes of the weights of a model's main layers and of what stands around them.
struct ModelWeightBytes {
  std::vector<LayerWeightBytes> layers;
  int64_t embedding_row = 0;  // one per token
  int64_t head = 0;           // output matrix
  int64_t head_mhc = 0;       // the head's hyper-connection
  int64_t norm = 0;           // in front of the output matrix
};

ModelWeightBytes model_weight_bytes(const ModelConfig& config);

// Floating-point operations, 2 per multiply-add.
struct LayerFlop {
  double linear = 0.0;     // every product with a weight matrix
  double attention = 0.0;  // query times keys, probabilities times values
  double index = 0.0;      // index scores

  double total() const { return linear + attention + index; }
};

// One token in one layer, when `context` tokens stand in the cache, itself included.
LayerFlop layer_flop(const ModelConfig& config, int layer, int64_t context);
// Of one row of logits.
double head_flop(const ModelConfig& config);

// Cache bytes that one token's attention reads in one layer: window, selected or visible entries, and every index entry in a CSA layer.
int64_t layer_kv_bytes(const ModelConfig& config, int layer, int64_t context);

// Different experts that `num_tokens` tokens choose, on average, when every choice of `num_selected` of `num_experts` is as likely as any
// other: E·(1 − (1 − k/E)^T).
double expected_experts(int num_experts, int num_selected, int64_t num_tokens);

// What a step costs in one layer, in the layers together, or in the whole model.
struct StepCost {
  double weight_bytes = 0.0;
  double kv_bytes = 0.0;
  double flop = 0.0;

  double bytes() const { return weight_bytes + kv_bytes; }
  StepCost& operator+=(const StepCost& other);
};

// Kinds of work that are done by different ops, so that an op's time can be held against what it has to do.
enum class CostPart : uint8_t {
  kProducts,     // every linear map that is in no other part: queries, window entries, compressors, indexer, output, logits
  kGrouped,      // the grouped output projection, wo_a
  kExperts,      // routed and shared
  kAttention,    // window, selected and visible entries
  kIndexScores,  // scores of all index entries
  kMhc,          // hyper-connections, the head's included
  kRouter,       // gates
  kOther,        // embedding rows and norms
};
inline constexpr int kNumCostParts = 8;
const char* part_name(CostPart part);

// A step's cost by part.
struct StepCosts {
  std::array<StepCost, kNumCostParts> parts;

  StepCost& of(CostPart part) { return parts[static_cast<size_t>(part)]; }
  const StepCost& of(CostPart part) const { return parts[static_cast<size_t>(part)]; }
  StepCost total() const;
  StepCosts& operator+=(const StepCosts& other);
};

// A decode step of `num_seqs` sequences, one token each, with `context` tokens in each cache: weights read once, with the experts that so
// many tokens are expected to choose; each sequence's cache.
StepCosts decode_layer_costs(const ModelConfig& config, const LayerWeightBytes& weights, int layer, int num_seqs, int64_t context);
// All main layers, one embedding row per sequence, and the head with a row of logits for each.
StepCosts decode_costs(const ModelConfig& config, const ModelWeightBytes& weights, int num_seqs, int64_t context);

// A step of a prompt: `num_tokens` tokens of one sequence after `first_position` others. The weights are read once; the cache bytes are
// those the last token reads, since a prompt's tokens share them.
StepCosts prefill_layer_costs(const ModelConfig& config, const LayerWeightBytes& weights, int layer, int64_t first_position,
                              int64_t num_tokens);
// All main layers and the embedding rows; no logits.
StepCosts prefill_costs(const ModelConfig& config, const ModelWeightBytes& weights, int64_t first_position, int64_t num_tokens);

}  // namespace dsv4
