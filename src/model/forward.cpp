#include "model/forward.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace dsv4 {
namespace {

constexpr int kHalfRope = kRopeDim / 2;

size_t product(std::initializer_list<int> factors, size_t element_bytes) {
  size_t bytes = element_bytes;
  for (int factor : factors) bytes *= static_cast<size_t>(factor);
  return bytes;
}

// Row 0: base of SWA layers and the MTP block; row 1: base of CSA and HCA layers, with YaRN.
Buffer make_freqs(const ModelConfig& config, Backend& backend) {
  float table[2 * kHalfRope] = {};
  for (int layer_idx = 0; layer_idx < config.num_blocks(); ++layer_idx) {
    rope_frequencies(config.rope(layer_idx), table + (config.ratio(layer_idx) == 0 ? 0 : kHalfRope));
  }
  Buffer freqs(backend, sizeof(table));
  backend.copy_from_host(freqs.as<void>(), table, sizeof(table));
  return freqs;
}

int max_pages(const ModelConfig& config) {
  return (config.max_position_embeddings + kPagePositions - 1) / kPagePositions;
}

WorkspaceSize workspace_size(const ModelConfig& config, const ModelOptions& options, bool with_mtp) {
  return {options.max_step_tokens, options.max_decode_rows, options.max_context > 0 ? options.max_context : config.max_position_embeddings,
          with_mtp};
}

}  // namespace

Model::Model(const ModelConfig& config, ModelWeights weights, Backend& backend, const ModelOptions& options)
    : config_(config),
      options_(options),
      backend_(backend),
      weights_(std::move(weights)),
      workspace_(config_, workspace_size(config_, options, has_mtp()), backend),
      device_step_(backend, options.max_step_tokens, options.max_step_seqs, max_pages(config_)),
      freqs_(make_freqs(config_, backend)),
      rows_(backend, product({options.max_logits_rows}, sizeof(int32_t))),
      head_streams_(backend, product({options.max_logits_rows, config_.hc_mult, config_.hidden_size}, sizeof(Bf16))),
      max_head_rows_(std::max(options.max_logits_rows, options.max_decode_rows)),
      head_x_(backend, product({2, max_head_rows_, config_.hidden_size}, sizeof(Bf16))),
      logits_(backend, product({options.max_logits_rows, config_.vocab_size}, sizeof(float))) {}

Model::~Model() = default;

void Model::check_step(const StepInput& step) const {
  for (int32_t token_id : step.token_ids()) {
    require(token_id >= 0 && token_id < config_.vocab_size, "token id {}: expected 0 to {}", token_id, config_.vocab_size - 1);
  }
}

LayerContext Model::layer_context(int layer_idx, const LayerWeights& weights, int max_position, const KvCache& cache) const {
  const int ratio = config_.ratio(layer_idx);
  const float* freqs = freqs_.as<float>() + (ratio == 0 ? 0 : kHalfRope);
  const int max_visible = ratio == 0 ? 0 : num_visible_entries(max_position, ratio);
  return {config_, weights, cache.layer(layer_idx), freqs, layer_idx, ratio, max_visible};
}

void Model::run_layers(const BatchView& batch, int max_position, const KvCache& cache, LayerObserver* observer) {
  backend_.embed({batch.token_ids, weights_.embed, workspace_.streams, batch.num_tokens, config_.hc_mult, config_.hidden_size});
  LayerPass pass(batch, workspace_.streams, workspace_, backend_, observer);
  for (int layer_idx = 0; layer_idx < config_.num_hidden_layers; ++layer_idx) {
    pass.run(layer_context(layer_idx, weights_.layers[static_cast<size_t>(layer_idx)], max_position, cache));
  }
  pass.finish();
}

void Model::decode(const BatchView& batch, const KvCache& cache, float* logits) {
  require(batch.num_tokens <= options_.max_decode_rows && batch.num_seqs == batch.num_tokens,
          "decode: {} rows of {} sequences, expected one each of at most {}", batch.num_tokens, batch.num_seqs, options_.max_decode_rows);
  num_rows_ = 0;
  run_layers(batch, batch.page_table_stride * kPagePositions - 1, cache, observer_);
  run_head(weights_.head, workspace_.streams, batch.num_tokens, logits);
}

void Model::forward(const StepInput& step, KvCache& cache) {
  check_step(step);
  const BatchView batch = device_step_.upload(step);
  num_rows_ = batch.num_tokens;
  if (num_rows_ == 0) return;
  run_layers(batch, step.max_position(), cache, observer_);
}

// Logits [num_rows, vocab_size] of streams [num_rows, hc, d] (spec 2.12).
void Model::run_head(const HeadWeights& head, const Bf16* streams, int num_rows, float* logits) {
  Bf16* collapsed = head_x_.as<Bf16>();
  Bf16* normed = collapsed + int64_t{max_head_rows_} * config_.hidden_size;
  backend_.head_norm({{streams, head.hc.fn, head.hc.base, head.hc.scale, collapsed, num_rows, config_.hc_mult, config_.hidden_size,
                       config_.rms_norm_eps, config_.hc_eps},
                      {collapsed, head.norm, normed, num_rows, config_.hidden_size, config_.rms_norm_eps}});
  backend_.linear_fp32({normed, head.head, logits, num_rows});
}

float* Model::head_logits(const HeadWeights& head, const Bf16* streams, std::span<const int32_t> rows) {
  const int num_rows = static_cast<int>(rows.size());
  require(num_rows <= options_.max_logits_rows, "logits: {} rows, at most {} fit", num_rows, options_.max_logits_rows);
  for (int32_t row : rows) require(row >= 0 && row < num_rows_, "logits: row {}, the last step has {} rows", row, num_rows_);
  if (num_rows == 0) return logits_.as<float>();
  backend_.copy_from_host(rows_.as<void>(), rows.data(), rows.size_bytes());
  const int64_t row_bytes = int64_t{config_.hc_mult} * config_.hidden_size * static_cast<int64_t>(sizeof(Bf16));
  backend_.gather_rows({streams, rows_.as<int32_t>(), head_streams_.as<void>(), num_rows, row_bytes});
  run_head(head, head_streams_.as<Bf16>(), num_rows, logits_.as<float>());
  return logits_.as<float>();
}

float* Model::logits(std::span<const int32_t> rows) {
  return head_logits(weights_.head, workspace_.streams, rows);
}

float* Model::mtp_logits(std::span<const int32_t> rows) {
  require(has_mtp(), "this checkpoint has no MTP block");
  return head_logits(weights_.mtp->head, workspace_.mtp_streams, rows);
}

void Model::forward_mtp(const StepInput& step, KvCache& cache) {
  require(has_mtp(), "this checkpoint has no MTP block");
  require(step.num_tokens() == num_rows_, "MTP step of {} tokens after a step of {}", step.num_tokens(), num_rows_);
  check_step(step);
  if (num_rows_ == 0) return;
  const BatchView batch = device_step_.upload(step);
  const MtpWeights& mtp = *weights_.mtp;
  const int hidden_size = config_.hidden_size;
  const int num_stream_rows = num_rows_ * config_.hc_mult;

  // e = e_proj(RMS(embed)), in x, u and their codes.
  backend_.embed({batch.token_ids, weights_.embed, workspace_.x, num_rows_, 1, hidden_size});
  backend_.rms_norm({workspace_.x, mtp.enorm, workspace_.u, num_rows_, hidden_size, config_.rms_norm_eps});
  backend_.quantize({workspace_.u, workspace_.u_codes, workspace_.u_scales, num_rows_, hidden_size, workspace_.u_values});
  backend_.linear_fp8({{workspace_.u_codes, workspace_.u_scales, workspace_.u_values}, mtp.e_proj, workspace_.mtp_e, num_rows_});
  // g = h_proj(RMS(streams)), every stream a row of its own.
  backend_.rms_norm({workspace_.streams, mtp.hnorm, workspace_.mtp_g, num_stream_rows, hidden_size, config_.rms_norm_eps});
  backend_.quantize(
      {workspace_.mtp_g, workspace_.mtp_g_codes, workspace_.mtp_g_scales, num_stream_rows, hidden_size, workspace_.mtp_g_values});
  backend_.linear_fp8(
      {{workspace_.mtp_g_codes, workspace_.mtp_g_scales, workspace_.mtp_g_values}, mtp.h_proj, workspace_.mtp_g, num_stream_rows});
  backend_.mtp_join({workspace_.mtp_e, workspace_.mtp_g, workspace_.mtp_streams, num_rows_, config_.hc_mult, hidden_size});

  LayerPass pass(batch, workspace_.mtp_streams, workspace_, backend_, nullptr);
  pass.run(layer_context(config_.num_hidden_layers, mtp.layer, step.max_position(), cache));
  pass.finish();
}

void Model::forward_layer(int layer_idx, const StepInput& step, KvCache& cache, const Bf16* streams, Bf16* out) {
  check_step(step);
  const BatchView batch = device_step_.upload(step);
  num_rows_ = batch.num_tokens;
  const size_t bytes = product({num_rows_, config_.hc_mult, config_.hidden_size}, sizeof(Bf16));
  backend_.copy_from_host(workspace_.streams, streams, bytes);
  LayerPass pass(batch, workspace_.streams, workspace_, backend_, observer_);
  pass.run(layer_context(layer_idx, weights_.layers.at(static_cast<size_t>(layer_idx)), step.max_position(), cache));
  pass.finish();
  backend_.copy_to_host(out, workspace_.streams, bytes);
}

void Model::route(int layer_idx, const Bf16* x, const float* bias, int num_rows, int32_t* experts, float* weights) {
  require(num_rows <= options_.max_step_tokens, "route: {} rows, at most {} fit", num_rows, options_.max_step_tokens);
  const MoeWeights& moe = weights_.layers.at(static_cast<size_t>(layer_idx)).moe;
  const Buffer device_bias(backend_, product({moe.num_experts}, sizeof(float)));
  backend_.copy_from_host(device_bias.as<void>(), bias, device_bias.bytes());
  backend_.copy_from_host(workspace_.u, x, product({num_rows, config_.hidden_size}, sizeof(Bf16)));
  backend_.router({workspace_.u, moe.gate, device_bias.as<float>(), nullptr, nullptr, workspace_.experts, workspace_.expert_weights,
                   num_rows, config_.num_experts_per_tok, config_.routed_scaling_factor, nullptr});
  const size_t count = static_cast<size_t>(num_rows) * static_cast<size_t>(config_.num_experts_per_tok);
  backend_.copy_to_host(experts, workspace_.experts, count * sizeof(int32_t));
  backend_.copy_to_host(weights, workspace_.expert_weights, count * sizeof(float));
}

}  // namespace dsv4
