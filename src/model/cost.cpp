#include "model/cost.h"

#include <algorithm>
#include <cmath>
#include <string>

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

// Multiply-adds of one token with the weights of a layer, by part.
struct LinearMacs {
  double products = 0.0;
  double grouped = 0.0;
  double experts = 0.0;
  double mhc = 0.0;
  double router = 0.0;

  double total() const { return products + grouped + experts + mhc + router; }
};

LinearMacs linear_macs(const ModelConfig& config, int layer) {
  const double hidden = config.hidden_size;
  const double rank = config.q_lora_rank;
  const double heads_dim = real(int64_t{config.num_attention_heads} * config.head_dim);
  const double o_rank = config.o_lora_rank;
  LinearMacs macs;
  macs.products = hidden * rank + heads_dim * rank + config.head_dim * hidden + o_rank * config.o_groups * hidden;
  const int ratio = config.ratio(layer);
  if (ratio != 0) macs.products += 2.0 * ModelConfig::compressor_width(ratio, config.head_dim) * hidden;
  if (ratio == kCsaRatio) {
    const double index_dim = real(int64_t{config.index_n_heads} * config.index_head_dim);
    macs.products += index_dim * rank + config.index_n_heads * hidden;
    macs.products += 2.0 * ModelConfig::compressor_width(ratio, config.index_head_dim) * hidden;
  }
  macs.grouped = heads_dim * o_rank;
  macs.experts = (config.num_experts_per_tok + 1.0) * 3.0 * hidden * config.moe_intermediate_size;
  // Two hyper-connections: the projection, and the mixing of the streams: one product to collapse them, one to add the output, hc to mix.
  const double hc = config.hc_mult;
  macs.mhc = 2.0 * (config.hc_rows() * hc + hc * (hc + 2.0)) * hidden;
  macs.router = real(config.n_routed_experts) * hidden;
  return macs;
}

int64_t entry_bytes(const ModelConfig& config) {
  return static_cast<int64_t>(KvEntryLayout{config.head_dim}.entry_bytes());
}

int64_t index_entry_bytes(const ModelConfig& config) {
  return static_cast<int64_t>(IndexEntryLayout{config.index_head_dim}.entry_bytes());
}

// Weights of a layer read once by `num_tokens` tokens; no caches, no operations.
StepCosts weight_costs(const ModelConfig& config, const LayerWeightBytes& weights, int64_t num_tokens) {
  const double experts = expected_experts(config.n_routed_experts, config.num_experts_per_tok, num_tokens);
  StepCosts costs{};
  costs.of(CostPart::kProducts).weight_bytes = real(weights.core - weights.wo_a + weights.compressor + weights.indexer);
  costs.of(CostPart::kGrouped).weight_bytes = real(weights.wo_a);
  costs.of(CostPart::kExperts).weight_bytes = real(weights.expert) * experts + real(weights.shared);
  costs.of(CostPart::kMhc).weight_bytes = real(weights.mhc);
  costs.of(CostPart::kRouter).weight_bytes = real(weights.router + weights.router_row * num_tokens);
  costs.of(CostPart::kOther).weight_bytes = real(weights.norms);
  return costs;
}

// Adds the operations of one token in a layer.
void add_flop(const ModelConfig& config, int layer, int64_t context, double num_tokens, StepCosts& costs) {
  const LinearMacs macs = linear_macs(config, layer);
  const LayerFlop flop = layer_flop(config, layer, context);
  costs.of(CostPart::kProducts).flop += 2.0 * macs.products * num_tokens;
  costs.of(CostPart::kGrouped).flop += 2.0 * macs.grouped * num_tokens;
  costs.of(CostPart::kExperts).flop += 2.0 * macs.experts * num_tokens;
  costs.of(CostPart::kMhc).flop += 2.0 * macs.mhc * num_tokens;
  costs.of(CostPart::kRouter).flop += 2.0 * macs.router * num_tokens;
  costs.of(CostPart::kAttention).flop += flop.attention * num_tokens;
  costs.of(CostPart::kIndexScores).flop += flop.index * num_tokens;
}

void add_kv_bytes(const ModelConfig& config, int layer, int64_t context, int64_t num_seqs, StepCosts& costs) {
  costs.of(CostPart::kAttention).kv_bytes += real(entry_bytes(config) * attended_entries(config, layer, context) * num_seqs);
  costs.of(CostPart::kIndexScores).kv_bytes += real(index_entry_bytes(config) * index_entries(config, layer, context) * num_seqs);
}

}  // namespace

ModelWeightBytes model_weight_bytes(const ModelConfig& config) {
  ModelWeightBytes bytes;
  bytes.layers.resize(static_cast<size_t>(config.num_hidden_layers));
  for (const TensorSpec& spec : tensor_specs(config, false)) {
    if (spec.layer < 0) {
      if (spec.category == TensorCategory::kEmbedding) {
        bytes.embedding_row += spec.bytes() / spec.shape[0];
      } else if (spec.category == TensorCategory::kMhc) {
        bytes.head_mhc += spec.bytes();
      } else if (spec.category == TensorCategory::kNorms) {
        bytes.norm += spec.bytes();
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
        if (spec.name.find("attn.wo_a.") != std::string::npos) layer.wo_a += spec.bytes();
    }
  }
  for (LayerWeightBytes& layer : bytes.layers) layer.expert /= config.n_routed_experts;
  return bytes;
}

LayerFlop layer_flop(const ModelConfig& config, int layer, int64_t context) {
  const double heads_dim = real(int64_t{config.num_attention_heads} * config.head_dim);
  const double index_dim = real(int64_t{config.index_n_heads} * config.index_head_dim);
  return {2.0 * linear_macs(config, layer).total(), 4.0 * heads_dim * real(attended_entries(config, layer, context)),
          2.0 * index_dim * real(index_entries(config, layer, context))};
}

double head_flop(const ModelConfig& config) {
  return 2.0 * config.vocab_size * config.hidden_size;
}

int64_t layer_kv_bytes(const ModelConfig& config, int layer, int64_t context) {
  return entry_bytes(config) * attended_entries(config, layer, context) + index_entry_bytes(config) * index_entries(config, layer, context);
}

double expected_experts(int num_experts, int num_selected, int64_t num_tokens) {
  const double missed = 1.0 - static_cast<double>(num_selected) / num_experts;
  return num_experts * (1.0 - std::pow(missed, real(num_tokens)));
}

const char* part_name(CostPart part) {
  switch (part) {
    case CostPart::kProducts:
      return "products";
    case CostPart::kGrouped:
      return "grouped projection";
    case CostPart::kExperts:
      return "experts";
    case CostPart::kAttention:
      return "attention";
    case CostPart::kIndexScores:
      return "index scores";
    case CostPart::kMhc:
      return "mHC";
    case CostPart::kRouter:
      return "router";
    case CostPart::kOther:
      return "other";
  }
  return "?";
}

StepCost& StepCost::operator+=(const StepCost& other) {
  weight_bytes += other.weight_bytes;
  kv_bytes += other.kv_bytes;
  flop += other.flop;
  return *this;
}

StepCost StepCosts::total() const {
  StepCost sum;
  for (const StepCost& part : parts) sum += part;
  return sum;
}

StepCosts& StepCosts::operator+=(const StepCosts& other) {
  for (size_t i = 0; i < parts.size(); ++i) parts[i] += other.parts[i];
  return *this;
}

StepCosts decode_layer_costs(const ModelConfig& config, const LayerWeightBytes& weights, int layer, int num_seqs, int64_t context) {
  StepCosts costs = weight_costs(config, weights, num_seqs);
  add_kv_bytes(config, layer, context, num_seqs, costs);
  add_flop(config, layer, context, num_seqs, costs);
  return costs;
}

StepCosts decode_costs(const ModelConfig& config, const ModelWeightBytes& weights, int num_seqs, int64_t context) {
  StepCosts costs{};
  for (int layer = 0; layer < config.num_hidden_layers; ++layer) {
    costs += decode_layer_costs(config, weights.layers[static_cast<size_t>(layer)], layer, num_seqs, context);
  }
  costs.of(CostPart::kProducts) += {real(weights.head), 0.0, head_flop(config) * num_seqs};
  costs.of(CostPart::kMhc) += {real(weights.head_mhc), 0.0, 0.0};
  costs.of(CostPart::kOther) += {real(weights.norm + weights.embedding_row * num_seqs), 0.0, 0.0};
  return costs;
}

StepCosts prefill_layer_costs(const ModelConfig& config, const LayerWeightBytes& weights, int layer, int64_t first_position,
                              int64_t num_tokens) {
  StepCosts costs = weight_costs(config, weights, num_tokens);
  if (num_tokens == 0) return costs;
  add_kv_bytes(config, layer, first_position + num_tokens, 1, costs);
  for (int64_t context = first_position + 1; context <= first_position + num_tokens; ++context) {
    add_flop(config, layer, context, 1.0, costs);
  }
  return costs;
}

StepCosts prefill_costs(const ModelConfig& config, const ModelWeightBytes& weights, int64_t first_position, int64_t num_tokens) {
  StepCosts costs{};
  for (int layer = 0; layer < config.num_hidden_layers; ++layer) {
    costs += prefill_layer_costs(config, weights.layers[static_cast<size_t>(layer)], layer, first_position, num_tokens);
  }
  costs.of(CostPart::kOther) += {real(weights.embedding_row * num_tokens), 0.0, 0.0};
  return costs;
}

}  // namespace dsv4
