// What a step must read and compute at least, from the configuration alone (spec section 8): the floor that measured times are held
// against. Activations, and what a kernel reads twice, are not counted.
#pragma once

#include <cstdint>
#include <vector>

#include "model/config.h"

namespace dsv4 {

// Bytes of one layer's weights by part, scales included.
struct LayerWeightBytes {
  int64_t core = 0;        // wq_a … wo_b, q and kv norms, sinks
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
  int64_t head = 0;           // output matrix, final norm, the head's hyper-connection
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

// A decode step of `num_seqs` sequences, one token each, with `context` tokens in each cache: weights read once, with the experts that so
// many tokens are expected to choose; each sequence's cache.
StepCost decode_layer_cost(const ModelConfig& config, const LayerWeightBytes& weights, int layer, int num_seqs, int64_t context);
// All main layers, one embedding row per sequence, and the head with a row of logits for each.
StepCost decode_cost(const ModelConfig& config, const ModelWeightBytes& weights, int num_seqs, int64_t context);

// A prompt: `num_tokens` tokens of one sequence after `first_position` others, in one layer. The weights are read once; the cache bytes
// are those the last token reads, since a prompt's tokens share them.
StepCost prefill_layer_cost(const ModelConfig& config, const LayerWeightBytes& weights, int layer, int64_t first_position,
                            int64_t num_tokens);

}  // namespace dsv4
