#include "model/tensor_specs.h"

#include <fmt/format.h>

#include <utility>

#include "ops/weight.h"

namespace dsv4 {
namespace {

// Collects the tensors of one block or of the whole model below one name prefix.
class SpecList {
 public:
  explicit SpecList(const ModelConfig& config) : config_(config) {}

  void whole_model() {
    begin("", -1);
    const int64_t vocab = config_.vocab_size;
    const int64_t hidden = config_.hidden_size;
    add("embed.weight", DType::kBf16, {vocab, hidden}, TensorCategory::kEmbedding, true);
    add("head.weight", DType::kBf16, {vocab, hidden}, TensorCategory::kHead, true);
    head();
  }

  void block(int layer, int num_experts) {
    begin(block_prefix(config_, layer), layer);
    hyper_connection("hc_attn", config_.hc_rows(), 3);
    hyper_connection("hc_ffn", config_.hc_rows(), 3);
    add("attn_norm.weight", DType::kBf16, {config_.hidden_size}, TensorCategory::kNorms);
    add("ffn_norm.weight", DType::kBf16, {config_.hidden_size}, TensorCategory::kNorms);
    attention(config_.ratio(layer));
    moe(num_experts, config_.is_hash_layer(layer));
    if (!config_.is_mtp(layer)) return;
    const int64_t hidden = config_.hidden_size;
    fp8("e_proj", hidden, hidden, TensorCategory::kMtpJoin);
    fp8("h_proj", hidden, hidden, TensorCategory::kMtpJoin);
    add("enorm.weight", DType::kBf16, {hidden}, TensorCategory::kMtpJoin);
    add("hnorm.weight", DType::kBf16, {hidden}, TensorCategory::kMtpJoin);
    head();
  }

  std::vector<TensorSpec> take() { return std::move(specs_); }

 private:
  void begin(std::string prefix, int layer) {
    prefix_ = std::move(prefix);
    layer_ = layer;
  }

  void add(std::string_view name, DType dtype, Shape shape, TensorCategory category, bool split = false) {
    specs_.push_back({fmt::format("{}{}", prefix_, name), dtype, std::move(shape), category, layer_, split});
  }

  // A weight and its scales, one per 128×128 block.
  void fp8(std::string_view name, int64_t rows, int64_t cols, TensorCategory category, bool split = false) {
    const auto blocks = [](int64_t size) { return (size + kFp8Block - 1) / kFp8Block; };
    add(fmt::format("{}.weight", name), DType::kF8E4M3, {rows, cols}, category, split);
    add(fmt::format("{}.scale", name), DType::kF8E8M0, {blocks(rows), blocks(cols)}, category, split);
  }

  // Pairs of e2m1 codes and their scales, one per row and 32 columns.
  void fp4(std::string_view name, int64_t rows, int64_t cols, TensorCategory category, bool split) {
    add(fmt::format("{}.weight", name), DType::kI8, {rows, cols / 2}, category, split);
    add(fmt::format("{}.scale", name), DType::kF8E8M0, {rows, cols / kFp4Block}, category, split);
  }

  void hyper_connection(std::string_view name, int64_t rows, int64_t num_scales) {
    add(fmt::format("{}_fn", name), DType::kF32, {rows, int64_t{config_.hc_mult} * config_.hidden_size}, TensorCategory::kMhc);
    add(fmt::format("{}_base", name), DType::kF32, {rows}, TensorCategory::kMhc);
    add(fmt::format("{}_scale", name), DType::kF32, {num_scales}, TensorCategory::kMhc);
  }

  void head() {
    hyper_connection("hc_head", config_.hc_mult, 1);
    add("norm.weight", DType::kBf16, {config_.hidden_size}, TensorCategory::kNorms);
  }

  void compressor(std::string_view name, int ratio, int64_t dim, TensorCategory category) {
    const int64_t width = ModelConfig::compressor_width(ratio, static_cast<int>(dim));
    add(fmt::format("{}.ape", name), DType::kF32, {ratio, width}, category);
    add(fmt::format("{}.wkv.weight", name), DType::kBf16, {width, config_.hidden_size}, category);
    add(fmt::format("{}.wgate.weight", name), DType::kBf16, {width, config_.hidden_size}, category);
    add(fmt::format("{}.norm.weight", name), DType::kBf16, {dim}, category);
  }

  void attention(int ratio) {
    const auto category = TensorCategory::kAttention;
    const int64_t hidden = config_.hidden_size;
    const int64_t q_rank = config_.q_lora_rank;
    const int64_t dim = config_.head_dim;
    const int64_t o_rows = int64_t{config_.o_groups} * config_.o_lora_rank;
    add("attn.attn_sink", DType::kF32, {config_.num_attention_heads}, category, true);
    fp8("attn.wq_a", q_rank, hidden, category);
    add("attn.q_norm.weight", DType::kBf16, {q_rank}, category);
    fp8("attn.wq_b", config_.num_attention_heads * dim, q_rank, category, true);
    fp8("attn.wkv", dim, hidden, category);
    add("attn.kv_norm.weight", DType::kBf16, {dim}, category);
    fp8("attn.wo_a", o_rows, config_.heads_per_group() * dim, category, true);
    fp8("attn.wo_b", hidden, o_rows, category, true);
    if (ratio == 0) return;
    compressor("attn.compressor", ratio, dim, TensorCategory::kCompressors);
    if (ratio != kCsaRatio) return;
    const int64_t index_heads = config_.index_n_heads;
    fp8("attn.indexer.wq_b", index_heads * config_.index_head_dim, q_rank, TensorCategory::kIndexers, true);
    add("attn.indexer.weights_proj.weight", DType::kBf16, {index_heads, hidden}, TensorCategory::kIndexers, true);
    compressor("attn.indexer.compressor", ratio, config_.index_head_dim, TensorCategory::kIndexers);
  }

  void moe(int num_experts, bool hash) {
    const int64_t hidden = config_.hidden_size;
    const int64_t inner = config_.moe_intermediate_size;
    add("ffn.gate.weight", DType::kBf16, {num_experts, hidden}, TensorCategory::kRouters);
    if (hash) {
      add("ffn.gate.tid2eid", DType::kI64, {config_.vocab_size, config_.num_experts_per_tok}, TensorCategory::kRouters);
    } else {
      add("ffn.gate.bias", DType::kF32, {num_experts}, TensorCategory::kRouters);
    }
    for (int expert_idx = 0; expert_idx < num_experts; ++expert_idx) {
      const std::string name = fmt::format("ffn.experts.{}", expert_idx);
      routed_matrix(name + ".w1", inner, hidden);
      routed_matrix(name + ".w2", hidden, inner);
      routed_matrix(name + ".w3", inner, hidden);
    }
    fp8("ffn.shared_experts.w1", inner, hidden, TensorCategory::kSharedExperts);
    fp8("ffn.shared_experts.w2", hidden, inner, TensorCategory::kSharedExperts);
    fp8("ffn.shared_experts.w3", inner, hidden, TensorCategory::kSharedExperts);
  }

  void routed_matrix(std::string_view name, int64_t rows, int64_t cols) {
    if (config_.expert_dtype == ExpertFormat::kFp4) {
      fp4(name, rows, cols, TensorCategory::kRoutedExperts, true);
    } else {
      fp8(name, rows, cols, TensorCategory::kRoutedExperts, true);
    }
  }

  const ModelConfig& config_;
  std::string prefix_;
  int layer_ = -1;
  std::vector<TensorSpec> specs_;
};

// Model parameters that a tensor holds; scales and tables hold none.
int64_t num_parameters(const TensorSpec& spec) {
  switch (spec.dtype) {
    case DType::kF8E8M0:
    case DType::kI64:
      return 0;
    case DType::kI8:
      return 2 * spec.num_elements();
    default:
      return spec.num_elements();
  }
}

}  // namespace

const char* category_name(TensorCategory category) {
  switch (category) {
    case TensorCategory::kRoutedExperts:
      return "routed experts";
    case TensorCategory::kAttention:
      return "attention core";
    case TensorCategory::kSharedExperts:
      return "shared experts";
    case TensorCategory::kEmbedding:
      return "embedding";
    case TensorCategory::kHead:
      return "LM head";
    case TensorCategory::kCompressors:
      return "main compressors";
    case TensorCategory::kIndexers:
      return "indexers";
    case TensorCategory::kMhc:
      return "mHC";
    case TensorCategory::kRouters:
      return "routers";
    case TensorCategory::kNorms:
      return "norms";
    case TensorCategory::kMtpJoin:
      return "MTP join";
  }
  return "?";
}

int64_t TensorSpec::num_elements() const {
  int64_t count = 1;
  for (const int64_t dim : shape) count *= dim;
  return count;
}

std::string block_prefix(const ModelConfig& config, int layer) {
  return config.is_mtp(layer) ? fmt::format("mtp.{}.", layer - config.num_hidden_layers) : fmt::format("layers.{}.", layer);
}

std::vector<TensorSpec> tensor_specs(const ModelConfig& config, bool with_mtp, std::span<const int> num_experts) {
  SpecList list(config);
  list.whole_model();
  const int num_blocks = with_mtp ? config.num_blocks() : config.num_hidden_layers;
  for (int layer = 0; layer < num_blocks; ++layer) {
    list.block(layer, num_experts.empty() ? config.n_routed_experts : num_experts[static_cast<size_t>(layer)]);
  }
  return list.take();
}

std::string official_name(std::string_view name) {
  constexpr std::string_view kModel = "model.";
  constexpr std::pair<std::string_view, std::string_view> kSpellings[] = {
      {"self_attn", "attn"}, {"mlp", "ffn"}, {"weight_scale_inv", "scale"}, {"e_score_correction_bias", "bias"}};
  if (name.starts_with(kModel)) name.remove_prefix(kModel.size());
  std::string official;
  while (true) {
    const size_t dot = name.find('.');
    std::string_view part = name.substr(0, dot);
    for (const auto& [legacy, current] : kSpellings) {
      if (part == legacy) part = current;
    }
    official += part;
    if (dot == std::string_view::npos) return official;
    official += '.';
    name.remove_prefix(dot + 1);
  }
}

WeightBytes sum_bytes(const ModelConfig& config, std::span<const TensorSpec> specs) {
  WeightBytes sums;
  std::vector<int64_t> expert_parameters(static_cast<size_t>(config.num_hidden_layers), 0);
  std::vector<int64_t> num_experts(static_cast<size_t>(config.num_hidden_layers), 0);
  for (const TensorSpec& spec : specs) {
    const int64_t bytes = spec.bytes();
    sums.total += bytes;
    ++sums.num_tensors;
    sums.by_dtype[static_cast<size_t>(spec.dtype)] += bytes;
    const bool routed = spec.category == TensorCategory::kRoutedExperts;
    if (config.is_mtp(spec.layer)) {
      sums.mtp += bytes;
      if (routed) sums.mtp_routed_experts += bytes;
      continue;
    }
    sums.main[static_cast<size_t>(spec.category)] += bytes;
    const int64_t parameters = num_parameters(spec);
    sums.parameters += parameters;
    if (routed) {
      expert_parameters[static_cast<size_t>(spec.layer)] += parameters;
    } else {
      sums.active_parameters += spec.category == TensorCategory::kEmbedding ? spec.shape[1] : parameters;
    }
    if (spec.name.ends_with("ffn.gate.weight")) num_experts[static_cast<size_t>(spec.layer)] = spec.shape[0];
  }
  for (size_t layer = 0; layer < num_experts.size(); ++layer) {
    if (num_experts[layer] > 0) sums.active_parameters += expert_parameters[layer] / num_experts[layer] * config.num_experts_per_tok;
  }
  return sums;
}

}  // namespace dsv4
