#include "model/layer.h"

#include <algorithm>
#include <cmath>

namespace dsv4 {
namespace {

// The steps of one layer; members are the op contracts' common arguments.
class LayerRun {
 public:
  LayerRun(const LayerContext& layer, const BatchView& batch, Bf16* streams, Workspace& workspace, Backend& backend)
      : config_(layer.config), layer_(layer), batch_(batch), streams_(streams), ws_(workspace), backend_(backend) {}

  void run() {
    enter(layer_.weights.hc_attn, layer_.weights.attn_norm);
    attention();
    leave();
    enter(layer_.weights.hc_ffn, layer_.weights.ffn_norm);
    moe();
    leave();
    if (layer_.observer != nullptr) layer_.observer->on_layer(layer_.layer_idx, num_tokens(), streams_);
  }

 private:
  int num_tokens() const { return batch_.num_tokens; }
  Fp8Activation u() const { return {ws_.u_codes, ws_.u_scales}; }
  Fp8Activation qr() const { return {ws_.qr_codes, ws_.qr_scales}; }

  void rms_norm(const Bf16* x, const Bf16* weight, Bf16* out, int dim) {
    backend_.rms_norm({x, weight, out, num_tokens(), dim, config_.rms_norm_eps});
  }
  void linear(const Fp8Activation& x, const Fp8Weight& weight, Bf16* out) { backend_.linear_fp8({x, weight, out, num_tokens()}); }

  // Streams → sub-layer input u, in bf16 and quantised.
  void enter(const HyperConnectionWeights& hc, const Bf16* norm) {
    backend_.mhc_pre({streams_, hc.fn, hc.base, hc.scale, ws_.x, ws_.post, ws_.comb, num_tokens(), config_.hc_mult, config_.hidden_size,
                      config_.hc_sinkhorn_iters, config_.rms_norm_eps, config_.hc_eps});
    rms_norm(ws_.x, norm, ws_.u, config_.hidden_size);
    backend_.quantize({ws_.u, ws_.u_codes, ws_.u_scales, num_tokens(), config_.hidden_size});
  }

  // Sub-layer output y → streams.
  void leave() { backend_.mhc_post({ws_.y, ws_.post, ws_.comb, streams_, num_tokens(), config_.hc_mult, config_.hidden_size}); }

  void attention() {
    const AttentionWeights& weights = layer_.weights.attn;
    linear(u(), weights.wq_a, ws_.qa);
    rms_norm(ws_.qa, weights.q_norm, ws_.qr, config_.q_lora_rank);
    backend_.quantize({ws_.qr, ws_.qr_codes, ws_.qr_scales, num_tokens(), config_.q_lora_rank});
    linear(qr(), weights.wq_b, ws_.q);
    backend_.query_norm({ws_.q, batch_.positions, layer_.freqs, num_tokens(), config_.num_attention_heads, config_.head_dim,
                         config_.qk_rope_head_dim, config_.rms_norm_eps});
    linear(u(), weights.wkv, ws_.kv);
    backend_.kv_store({ws_.kv, weights.kv_norm, layer_.freqs, batch_, layer_.cache.ring, config_.head_dim, config_.rms_norm_eps});
    // Entries become visible to the very token that completes them: the compressors run before attention.
    if (layer_.ratio != 0) {
      compress(weights.compressor, layer_.cache.entries, layer_.cache.state, EntryFormat::kFp8, config_.head_dim);
    }
    if (layer_.ratio == 4) select();
    core_attention();
    backend_.grouped_linear({ws_.attn, weights.wo_a, ws_.z, num_tokens(), config_.o_groups});
    const int z_dim = config_.o_groups * config_.o_lora_rank;
    backend_.quantize({ws_.z, ws_.z_codes, ws_.z_scales, num_tokens(), z_dim});
    linear({ws_.z_codes, ws_.z_scales}, weights.wo_b, ws_.y);
  }

  void compress(const CompressorWeights& weights, const PagedEntries& entries, float* state, EntryFormat format, int dim) {
    backend_.linear_fp32({ws_.u, weights.wkv, ws_.compressor_kv, num_tokens()});
    backend_.linear_fp32({ws_.u, weights.wgate, ws_.compressor_gate, num_tokens()});
    CompressParams params{};
    params.kv = ws_.compressor_kv;
    params.gate = ws_.compressor_gate;
    params.ape = weights.ape;
    params.weight = weights.norm;
    params.freqs = layer_.freqs;
    params.batch = batch_;
    params.state = state;
    params.entries = entries;
    params.format = format;
    params.ratio = layer_.ratio;
    params.dim = dim;
    params.state_tokens = layer_.cache.state_tokens;
    params.eps = config_.rms_norm_eps;
    backend_.compress(params);
  }

  // Indexer (spec 2.7): index entries, queries, scores and selection.
  void select() {
    const IndexerWeights& weights = layer_.weights.attn.indexer;
    compress(weights.compressor, layer_.cache.index_entries, layer_.cache.index_state, EntryFormat::kFp4Hadamard, config_.index_head_dim);
    linear(qr(), weights.wq_b, ws_.iq);
    backend_.indexer_query({ws_.iq, batch_.positions, layer_.freqs, ws_.iq_codes, ws_.iq_scales, num_tokens(), config_.index_n_heads,
                            config_.index_head_dim, config_.qk_rope_head_dim});
    const double kappa =
        1.0 / std::sqrt(static_cast<double>(config_.index_head_dim)) / std::sqrt(static_cast<double>(config_.index_n_heads));
    backend_.linear_bf16({ws_.u, weights.weights_proj, ws_.index_weights, num_tokens(), static_cast<float>(kappa)});

    const int64_t stride = std::max(layer_.max_visible, 1);
    const int rows_at_once = static_cast<int>(std::clamp<int64_t>(ws_.score_capacity / stride, 1, std::max(num_tokens(), 1)));
    for (int row = 0; row < num_tokens(); row += rows_at_once) {
      const int row_end = std::min(row + rows_at_once, num_tokens());
      backend_.index_scores({ws_.iq_codes, ws_.iq_scales, ws_.index_weights, batch_, layer_.cache.index_entries, ws_.scores, stride, row,
                             row_end, config_.index_n_heads, config_.index_head_dim, layer_.ratio, config_.index_topk});
      backend_.topk({ws_.scores, batch_.positions, ws_.selected, stride, row, row_end, layer_.ratio, config_.index_topk});
      if (layer_.observer != nullptr) layer_.observer->on_selection(layer_.layer_idx, row, row_end, ws_.scores, stride, ws_.selected);
    }
  }

  void core_attention() {
    AttentionParams params{};
    params.q = ws_.q;
    params.batch = batch_;
    params.ring = layer_.cache.ring;
    params.entries = layer_.cache.entries;
    params.selected = layer_.ratio == 4 ? ws_.selected : nullptr;
    params.sink = layer_.weights.attn.sink;
    params.freqs = layer_.freqs;
    params.out = ws_.attn;
    params.num_heads = config_.num_attention_heads;
    params.head_dim = config_.head_dim;
    params.window = config_.sliding_window;
    params.ratio = layer_.ratio;
    params.num_selected = layer_.ratio == 4 ? config_.index_topk : 0;
    params.softmax_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config_.head_dim)));
    backend_.attention(params);
  }

  void moe() {
    const MoeWeights& weights = layer_.weights.moe;
    const int num_selected = config_.num_experts_per_tok;
    backend_.router({ws_.u, weights.gate, weights.bias, weights.tid2eid, batch_.token_ids, ws_.experts, ws_.expert_weights, num_tokens(),
                     num_selected, config_.routed_scaling_factor});
    ExpertsParams params{};
    params.x = u();
    params.experts = ws_.experts;
    params.weights = ws_.expert_weights;
    params.w1 = weights.w1;
    params.w2 = weights.w2;
    params.w3 = weights.w3;
    params.format = weights.format;
    params.out = ws_.routed;
    params.num_tokens = num_tokens();
    params.num_selected = num_selected;
    params.num_experts = weights.num_experts;
    params.hidden_size = config_.hidden_size;
    params.intermediate_size = config_.moe_intermediate_size;
    params.swiglu_limit = config_.swiglu_limit;
    backend_.experts(params);
    backend_.shared_expert({u(), weights.shared_w1, weights.shared_w2, weights.shared_w3, ws_.shared, num_tokens(), config_.swiglu_limit});
    backend_.combine({ws_.routed, ws_.experts, ws_.shared, ws_.y, num_tokens(), num_selected, config_.hidden_size});
  }

  const ModelConfig& config_;
  const LayerContext& layer_;
  const BatchView& batch_;
  Bf16* streams_;
  Workspace& ws_;
  Backend& backend_;
};

}  // namespace

void run_layer(const LayerContext& layer, const BatchView& batch, Bf16* streams, Workspace& workspace, Backend& backend) {
  LayerRun(layer, batch, streams, workspace, backend).run();
}

}  // namespace dsv4
