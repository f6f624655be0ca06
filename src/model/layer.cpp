#include "model/layer.h"

#include <algorithm>
#include <cmath>
#include <span>

namespace dsv4 {
namespace {

// What the output of a sub-layer needs on its way into the streams (spec 2.3, step 7).
MhcPostParams post_params(const ModelConfig& config, int num_tokens, Bf16* streams, const Bf16* y, const HyperConnectionState& state) {
  return {y, state.post, state.comb, streams, num_tokens, config.hc_mult, config.hidden_size};
}

CombineParams combine_params(const ModelConfig& config, int num_tokens, const Workspace& ws) {
  return {ws.routed, ws.experts, ws.shared, ws.y, num_tokens, config.num_experts_per_tok, config.hidden_size};
}

// The steps of one layer; members are the op contracts' common arguments.
class LayerRun {
 public:
  LayerRun(const LayerContext& layer, const BatchView& batch, Bf16* streams, Workspace& workspace, Backend& backend,
           LayerObserver* observer)
      : config_(layer.config), layer_(layer), batch_(batch), streams_(streams), ws_(workspace), backend_(backend), observer_(observer) {}

  // Streams → input of the attention; before that the previous layer's experts go into the streams, where they are not yet.
  void enter_attention(bool after_moe) {
    const CombineParams combine = combine_params(config_, num_tokens(), ws_);
    const MhcPostParams post = post_params(config_, num_tokens(), streams_, ws_.y, ws_.hc_ffn);
    enter(after_moe ? &combine : nullptr, after_moe ? &post : nullptr, layer_.weights.hc_attn, ws_.hc_attn, layer_.weights.attn_norm);
  }

  void enter_moe() {
    const MhcPostParams post = post_params(config_, num_tokens(), streams_, ws_.y, ws_.hc_attn);
    enter(nullptr, &post, layer_.weights.hc_ffn, ws_.hc_ffn, layer_.weights.ffn_norm);
  }

  // u → y.
  void attention() {
    const AttentionWeights& weights = layer_.weights.attn;
    project();
    backend_.kv_store({ws_.kv, weights.kv_norm, layer_.freqs, batch_, layer_.cache.ring, config_.head_dim, config_.rms_norm_eps});
    // Entries become visible to the very token that completes them: the compressors run before attention.
    compress();
    backend_.norm_quantize({{ws_.qa, weights.q_norm, ws_.qr, num_tokens(), config_.q_lora_rank, config_.rms_norm_eps},
                            {ws_.qr, ws_.qr_codes, ws_.qr_scales, num_tokens(), config_.q_lora_rank, ws_.qr_values}});
    const Fp8Activation qr{ws_.qr_codes, ws_.qr_scales, ws_.qr_values};
    const LinearFp8Params queries[] = {{qr, weights.wq_b, ws_.q, num_tokens()}, {qr, weights.indexer.wq_b, ws_.iq, num_tokens()}};
    backend_.linear_group({std::span(queries).first(layer_.ratio == 4 ? 2 : 1), {}, {}});
    backend_.query_norm({ws_.q, batch_.positions, layer_.freqs, num_tokens(), config_.num_attention_heads, config_.head_dim,
                         config_.qk_rope_head_dim, config_.rms_norm_eps});
    if (layer_.ratio == 4) select();
    core_attention();
    backend_.grouped_linear({ws_.attn, weights.wo_a, ws_.z, num_tokens(), config_.o_groups});
    backend_.quantize({ws_.z, ws_.z_codes, ws_.z_scales, num_tokens(), config_.o_groups * config_.o_lora_rank, ws_.z_values});
    backend_.linear_fp8({{ws_.z_codes, ws_.z_scales, ws_.z_values}, weights.wo_b, ws_.y, num_tokens()});
  }

  // u → routed and shared, whose sum is y.
  void moe() {
    const MoeWeights& weights = layer_.weights.moe;
    RouterParams router{};
    router.x = ws_.u;
    router.gate = weights.gate;
    router.bias = weights.bias;
    router.tid2eid = weights.tid2eid;
    router.token_ids = batch_.token_ids;
    router.experts = ws_.experts;
    router.weights = ws_.expert_weights;
    router.num_tokens = num_tokens();
    router.num_selected = config_.num_experts_per_tok;
    router.routed_scaling_factor = config_.routed_scaling_factor;
    router.positions = batch_.positions;
    backend_.router(router);

    ExpertsParams routed{};
    routed.x = u();
    routed.experts = ws_.experts;
    routed.weights = ws_.expert_weights;
    routed.w1 = weights.w1;
    routed.w2 = weights.w2;
    routed.w3 = weights.w3;
    routed.format = weights.format;
    routed.out = ws_.routed;
    routed.num_tokens = num_tokens();
    routed.num_selected = config_.num_experts_per_tok;
    routed.num_experts = weights.num_experts;
    routed.hidden_size = config_.hidden_size;
    routed.intermediate_size = config_.moe_intermediate_size;
    routed.swiglu_limit = config_.swiglu_limit;
    routed.scratch = ws_.scratch;
    backend_.moe(
        {routed,
         {u(), weights.shared_w1, weights.shared_w2, weights.shared_w3, ws_.shared, num_tokens(), config_.swiglu_limit, ws_.scratch}});
  }

 private:
  int num_tokens() const { return batch_.num_tokens; }
  Fp8Activation u() const { return {ws_.u_codes, ws_.u_scales, ws_.u_values}; }

  // Streams → sub-layer input u, in bf16 and quantised, once what came before is in them.
  void enter(const CombineParams* combine, const MhcPostParams* post, const HyperConnectionWeights& hc, const HyperConnectionState& state,
             const Bf16* norm_weight) {
    const MhcPreParams pre{streams_,
                           hc.fn,
                           hc.base,
                           hc.scale,
                           ws_.x,
                           state.post,
                           state.comb,
                           num_tokens(),
                           config_.hc_mult,
                           config_.hidden_size,
                           config_.hc_sinkhorn_iters,
                           config_.rms_norm_eps,
                           config_.hc_eps};
    const RmsNormParams norm{ws_.x, norm_weight, ws_.u, num_tokens(), config_.hidden_size, config_.rms_norm_eps};
    const QuantizeParams quantize{ws_.u, ws_.u_codes, ws_.u_scales, num_tokens(), config_.hidden_size, ws_.u_values};
    backend_.boundary({combine, post, &pre, &norm, &quantize});
  }

  // Every product of u.
  void project() {
    const AttentionWeights& weights = layer_.weights.attn;
    const CompressorWeights& main = weights.compressor;
    const CompressorWeights& index = weights.indexer.compressor;
    const double kappa =
        1.0 / std::sqrt(static_cast<double>(config_.index_head_dim)) / std::sqrt(static_cast<double>(config_.index_n_heads));
    const LinearFp8Params fp8[] = {{u(), weights.wq_a, ws_.qa, num_tokens()}, {u(), weights.wkv, ws_.kv, num_tokens()}};
    const LinearBf16Params bf16[] = {{ws_.u, weights.indexer.weights_proj, ws_.index_weights, num_tokens(), static_cast<float>(kappa)}};
    const LinearFp32Params fp32[] = {{ws_.u, main.wkv, ws_.compressor_kv, num_tokens()},
                                     {ws_.u, main.wgate, ws_.compressor_gate, num_tokens()},
                                     {ws_.u, index.wkv, ws_.index_compressor_kv, num_tokens()},
                                     {ws_.u, index.wgate, ws_.index_compressor_gate, num_tokens()}};
    const size_t num_compressors = layer_.ratio == 0 ? 0 : layer_.ratio == 4 ? 2 : 1;
    backend_.linear_group({fp8, std::span(bf16).first(layer_.ratio == 4 ? 1 : 0), std::span(fp32).first(2 * num_compressors)});
  }

  CompressParams compressor(const CompressorWeights& weights, const float* kv, const float* gate) const {
    CompressParams params{};
    params.kv = kv;
    params.gate = gate;
    params.ape = weights.ape;
    params.weight = weights.norm;
    params.freqs = layer_.freqs;
    params.batch = batch_;
    params.ratio = layer_.ratio;
    params.state_tokens = layer_.cache.state_tokens;
    params.eps = config_.rms_norm_eps;
    return params;
  }

  void compress() {
    if (layer_.ratio == 0) return;
    const AttentionWeights& weights = layer_.weights.attn;
    CompressParams main = compressor(weights.compressor, ws_.compressor_kv, ws_.compressor_gate);
    main.state = layer_.cache.state;
    main.entries = layer_.cache.entries;
    main.format = EntryFormat::kFp8;
    main.dim = config_.head_dim;
    CompressParams index = compressor(weights.indexer.compressor, ws_.index_compressor_kv, ws_.index_compressor_gate);
    index.state = layer_.cache.index_state;
    index.entries = layer_.cache.index_entries;
    index.format = EntryFormat::kFp4Hadamard;
    index.dim = config_.index_head_dim;
    const CompressParams compressors[] = {main, index};
    backend_.compress_group({std::span(compressors).first(layer_.ratio == 4 ? 2 : 1)});
  }

  // Indexer queries, scores and selection (spec 2.7).
  void select() {
    backend_.indexer_query({ws_.iq, batch_.positions, layer_.freqs, ws_.iq_codes, ws_.iq_scales, num_tokens(), config_.index_n_heads,
                            config_.index_head_dim, config_.qk_rope_head_dim});
    const int64_t stride = std::max(layer_.max_visible, 1);
    const int rows_at_once = static_cast<int>(std::clamp<int64_t>(ws_.score_capacity / stride, 1, std::max(num_tokens(), 1)));
    for (int row = 0; row < num_tokens(); row += rows_at_once) {
      const int row_end = std::min(row + rows_at_once, num_tokens());
      backend_.index_scores({ws_.iq_codes, ws_.iq_scales, ws_.index_weights, batch_, layer_.cache.index_entries, ws_.scores, stride, row,
                             row_end, config_.index_n_heads, config_.index_head_dim, layer_.ratio, config_.index_topk});
      backend_.topk({ws_.scores, batch_.positions, ws_.selected, stride, row, row_end, layer_.ratio, config_.index_topk});
      if (observer_ != nullptr) observer_->on_selection(layer_.layer_idx, row, row_end, ws_.scores, stride, ws_.selected);
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
    params.max_visible = layer_.max_visible;
    params.scratch = ws_.scratch;
    params.scratch_bytes = ws_.scratch_bytes;
    backend_.attention(params);
  }

  const ModelConfig& config_;
  const LayerContext& layer_;
  const BatchView& batch_;
  Bf16* streams_;
  Workspace& ws_;
  Backend& backend_;
  LayerObserver* observer_;
};

}  // namespace

void LayerPass::run(const LayerContext& layer) {
  LayerRun run(layer, batch_, streams_, workspace_, backend_, observer_);
  run.enter_attention(unfinished_ != nullptr);
  layer_done();
  run.attention();
  run.enter_moe();
  run.moe();
  unfinished_ = &layer.config;
  unfinished_idx_ = layer.layer_idx;
}

void LayerPass::finish() {
  if (unfinished_ == nullptr) return;
  const CombineParams combine = combine_params(*unfinished_, batch_.num_tokens, workspace_);
  const MhcPostParams post = post_params(*unfinished_, batch_.num_tokens, streams_, workspace_.y, workspace_.hc_ffn);
  backend_.boundary({&combine, &post, nullptr, nullptr, nullptr});
  layer_done();
}

// The streams now hold the output of the unfinished layer.
void LayerPass::layer_done() {
  if (unfinished_ != nullptr && observer_ != nullptr) observer_->on_layer(unfinished_idx_, batch_.num_tokens, streams_);
  unfinished_ = nullptr;
}

}  // namespace dsv4
