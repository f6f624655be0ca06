// The model: a ragged step through all layers, the head, and the MTP block.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "model/config.h"
#include "model/kv_cache.h"
#include "model/layer.h"
#include "model/step.h"
#include "model/weights.h"
#include "model/workspace.h"

namespace dsv4 {

struct ModelOptions {
  int max_step_tokens = 512;  // rows of one step
  int max_step_seqs = 1;      // sequences of one step
  int max_logits_rows = 16;   // rows of one call of logits()
  int max_decode_rows = 0;    // rows of one call of decode()
  int max_context = 0;        // positions of one sequence in decode(); 0: max_position_embeddings
};

class Model {
 public:
  // `config` is copied. `backend`, and the checkpoint that `weights` were loaded from, must outlive the model.
  Model(const ModelConfig& config, ModelWeights weights, Backend& backend, const ModelOptions& options);
  ~Model();

  const ModelConfig& config() const { return config_; }
  const ModelOptions& options() const { return options_; }
  bool has_mtp() const { return weights_.mtp != nullptr; }

  // Runs the step's tokens through all layers; their streams and cache entries are then in place. Token ids must be in [0, vocab_size),
  // positions follow what each sequence's slot has computed before. Throws Error when the step is larger than the options allow.
  void forward(const StepInput& step, KvCache& cache);

  // Logits [rows.size(), vocab_size] of rows of the last forward() (fp32, backend memory, valid until the next call). At most
  // max_logits_rows.
  float* logits(std::span<const int32_t> rows);

  // Runs rows that are sequences of their own (num_seqs = num_tokens ≤ max_decode_rows) through all layers and the head: logits
  // [num_tokens, vocab_size] (fp32, backend memory). What runs depends on the number of rows and the page table's stride alone, so that it
  // may be recorded; rows at negative positions are padding. Afterwards rows of logits() need a forward() first. No observer is called.
  void decode(const BatchView& batch, const KvCache& cache, float* logits);

  // Runs the MTP block on the rows of the last forward() (spec 2.12): the same step but with token_ids[t] = the token at position t + 1;
  // mtp_logits then predict the token at t + 2. Needs has_mtp().
  void forward_mtp(const StepInput& step, KvCache& cache);
  float* mtp_logits(std::span<const int32_t> rows);

  // One layer alone on given streams [num_tokens, hc_mult, hidden_size] (host memory); `out` of the same shape. For verification.
  void forward_layer(int layer_idx, const StepInput& step, KvCache& cache, const Bf16* streams, Bf16* out);

  // Routes rows `x` [num_rows, hidden_size] (host memory) with the scored router of one layer under another bias [num_experts]; writes
  // experts and weights [num_rows, num_experts_per_tok]. For verification.
  void route(int layer_idx, const Bf16* x, const float* bias, int num_rows, int32_t* experts, float* weights);

  // Called from every main layer that forward() or forward_layer() runs, until replaced; nullptr: none.
  void set_observer(LayerObserver* observer) { observer_ = observer; }

 private:
  // `max_position`: the largest of the step, or an upper bound.
  LayerContext layer_context(int layer_idx, const LayerWeights& weights, int max_position, const KvCache& cache) const;
  // Embedding and main layers; the streams are then in the workspace.
  void run_layers(const BatchView& batch, int max_position, const KvCache& cache, LayerObserver* observer);
  void run_head(const HeadWeights& head, const Bf16* streams, int num_rows, float* logits);
  float* head_logits(const HeadWeights& head, const Bf16* streams, std::span<const int32_t> rows);
  void check_step(const StepInput& step) const;

  ModelConfig config_;
  ModelOptions options_;
  Backend& backend_;
  ModelWeights weights_;
  Workspace workspace_;
  DeviceStep device_step_;
  Buffer freqs_;         // [2, rope_dim/2]: without YaRN (SWA, MTP), with YaRN (CSA, HCA)
  Buffer rows_;          // int32 [max_logits_rows]
  Buffer head_streams_;  // bf16 [max_logits_rows, hc, d]
  int max_head_rows_;    // the larger of max_logits_rows and max_decode_rows
  Buffer head_x_;        // bf16 [2, max_head_rows, d]: collapsed, normed
  Buffer logits_;        // fp32 [max_logits_rows, vocab_size]
  int num_rows_ = 0;     // rows of the last forward()
  LayerObserver* observer_ = nullptr;
};

}  // namespace dsv4
