#include "model/cost.h"

#include <algorithm>
#include <cmath>

#include "model/tensor_specs.h"
#include "ops/kv_layout.h"

namespace dsv4 {
namespace {

double real(int64_t value) {
  return static_cast<double>(value);
}

// Entries that the token with `context` tokens in its cache reads in attention.
int64_t attended_entries(const ModelConfig& config, int layer, int64_t context) {
  const int64_t window = std::min<int64_t>(config.sliding_window, context);
  switch (config.layer_kind(layer)) {
    case LayerKind::kSwa:
      return window;
    case LayerKind::kCsa:
      return window + std::min<int64_t>(config.index_topk, context / kCsaRatio);
    case LayerKind::kHca:
      return window + context / kHcaRatio;
  }
  return window;
}

int64_t index_entries(const ModelConfig& config, int layer, int64_t context) {
  return config.layer_kind(layer) == LayerKind::kCsa ? context / kCsaRatio : 0;
}

double linear_macs(const ModelConfig& config, int layer) {
  const double hidden = config.hidden_size;
  const double rank = config.q_lora_rank;
  const double head_dim = config.head_dim;
  const double heads_dim = real(int64_t{config.num_attention_heads} * config.head_dim);
  const double o_rank = config.o_lora_rank;
  double macs = hidden * rank + heads_dim * rank + head_dim * hidden + heads_dim * o_rank + o_rank * config.o_groups * hidden;
  const int ratio = config.ratio(layer);
  if (ratio != 0) macs += 2.0 * ModelConfig::compressor_width(ratio, config.head_dim) * hidden;
  if (ratio == kCsaRatio) {
    const double index_dim = real(int64_t{config.index_n_heads} * config.index_head_dim);
    macs += index_dim * rank + config.index_n_heads * hidden;
    macs += 2.0 * ModelConfig::compressor_width(ratio, config.index_head_dim) * hidden;
  }
  // Two hyper-connections: the projection, and the mixing of the streams: one product to collapse them, one to add the output, hc to mix.
  const double hc = config.hc_mult;
  macs += 2.0 * (config.hc_rows() * hc + hc * (hc + 2.0)) * hidden;
  macs += real(config.n_routed_experts) * hidden;
  macs += (config.num_experts_per_tok + 1.0) * 3.0 * hidden * config.moe_intermediate_size;
  return macs;
}

}  // namespace

ModelWeightBytes model_weight_bytes(const ModelConfig& config) {
  ModelWeightBytes bytes;
  bytes.layers.resize(static_cast<size_t>(config.num_hidden_layers));
  for (const TensorSpec& spec : tensor_specs(config, false)) {
    if (spec.layer < 0) {
      if (spec.category == TensorCategory::kEmbedding) {
        bytes.embedding_row += spec.bytes() / spec.shape[0];
      } else {
        bytes.head += spec.bytes();
      }
      continue;
    }
    LayerWeightBytes& layer = bytes.layers[static_cast<size_t>(spec.layer)];
    switch (spec.category) {
      case TensorCategory::kRoutedExperts:
        layer.expert += spec.bytes();
        break;
      case TensorCategory::kSharedExperts:
        layer.shared += spec.bytes();
        break;
      case TensorCategory::kCompressors:
        layer.compressor += spec.bytes();
        break;
      case TensorCategory::kIndexers:
        layer.indexer += spec.bytes();
        break;
      case TensorCategory::kMhc:
        layer.mhc += spec.bytes();
        break;
      case TensorCategory::kRouters:
        if (spec.dtype == DType::kI64) {
          layer.router_row += spec.bytes() / spec.shape[0];
        } else {
          layer.router += spec.bytes();
        }
        break;
      case TensorCategory::kNorms:
        layer.norms += spec.bytes();
        break;
      default:
        layer.core += spec.bytes();
    }
  }
  for (LayerWeightBytes& layer : bytes.layers) layer.expert /= config.n_routed_experts;
  return bytes;
}

LayerFlop layer_flop(const ModelConfig& config, int layer, int64_t context) {
  const double heads_dim = real(int64_t{config.num_attention_heads} * config.head_dim);
  const double index_dim = real(int64_t{config.index_n_heads} * config.index_head_dim);
  return {2.0 * linear_macs(config, layer), 4.0 * heads_dim * real(attended_entries(config, layer, context)),
          2.0 * index_dim * real(index_entries(config, layer, context))};
}

double head_flop(const ModelConfig& config) {
  return 2.0 * config.vocab_size * config.hidden_size;
}

int64_t layer_kv_bytes(const ModelConfig& config, int layer, int64_t context) {
  const auto entry = static_cast<int64_t>(KvEntryLayout{config.head_dim}.entry_bytes());
  const auto index_entry = static_cast<int64_t>(IndexEntryLayout{config.index_head_dim}.entry_bytes());
  return entry * attended_entries(config, layer, context) + index_entry * index_entries(config, layer, context);
}

double expected_experts(int num_experts, int num_selected, int64_t num_tokens) {
  const double missed = 1.0 - static_cast<double>(num_selected) / num_experts;
  return num_experts * (1.0 - std::pow(missed, real(num_tokens)));
}

StepCost& StepCost::operator+=(const StepCost& other) {
  weight_bytes += other.weight_bytes;
  kv_bytes += other.kv_bytes;
  flop += other.flop;
  return *this;
}

namespace {

double layer_weight_bytes(const ModelConfig& config, const LayerWeightBytes& weights, int64_t num_tokens) {
  const double experts = expected_experts(config.n_routed_experts, config.num_experts_per_tok, num_tokens);
  const int64_t once = weights.core + weights.shared + weights.compressor + weights.indexer + weights.mhc + weights.router + weights.norms;
  return real(once) + real(weights.expert) * experts + real(weights.router_row * num_tokens);
}

}  // namespace

StepCost decode_layer_cost(const ModelConfig& config, const LayerWeightBytes& weights, int layer, int num_seqs, int64_t context) {
  return {layer_weight_bytes(config, weights, num_seqs), real(layer_kv_bytes(config, layer, context)) * num_seqs,
          layer_flop(config, layer, context).total() * num_seqs};
}

StepCost decode_cost(const ModelConfig& config, const ModelWeightBytes& weights, int num_seqs, int64_t context) {
  StepCost cost = {real(weights.head + weights.embedding_row * num_seqs), 0.0, head_flop(config) * num_seqs};
  for (int layer = 0; layer < config.num_hidden_layers; ++layer) {
    cost += decode_layer_cost(config, weights.layers[static_cast<size_t>(layer)], layer, num_seqs, context);
  }
  return cost;
}

StepCost prefill_layer_cost(const ModelConfig& config, const LayerWeightBytes& weights, int layer, int64_t first_position,
                            int64_t num_tokens) {
  StepCost cost = {layer_weight_bytes(config, weights, num_tokens), 0.0, 0.0};
  if (num_tokens == 0) return cost;
  cost.kv_bytes = real(layer_kv_bytes(config, layer, first_position + num_tokens));
  for (int64_t context = first_position + 1; context <= first_position + num_tokens; ++context) {
    cost.flop += layer_flop(config, layer, context).total();
  }
  return cost;
}

}  // namespace dsv4
