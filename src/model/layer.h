// The transformer layers over a ragged step: mHC(attention), then mHC(MoE) (spec 2.3–2.11).
#pragma once

#include <cstdint>

#include "model/config.h"
#include "model/kv_cache.h"
#include "model/weights.h"
#include "model/workspace.h"
#include "ops/backend.h"

namespace dsv4 {

// Sees what layers compute, for verification. Pointers are backend memory, valid during the call.
class LayerObserver {
 public:
  virtual ~LayerObserver() = default;
  // The selection of rows [row_begin, row_end) of a CSA layer: scores [row_end − row_begin, score_stride], written only for rows that see
  // more than index_topk entries; selected [num_tokens, index_topk].
  virtual void on_selection(int layer_idx, int row_begin, int row_end, const Bf16* scores, int64_t score_stride,
                            const int32_t* selected) = 0;
  // streams [num_tokens, hc_mult, hidden_size] after the layer.
  virtual void on_layer(int layer_idx, int num_tokens, const Bf16* streams) = 0;
};

// Everything a layer needs besides its streams; the references must outlive the call.
struct LayerContext {
  const ModelConfig& config;
  const LayerWeights& weights;
  const LayerCache& cache;
  const float* freqs;  // the layer's own rotary frequencies, backend memory
  int layer_idx;
  int ratio;        // of compressed entries: 0 (SWA), 4 (CSA), 128 (HCA)
  int max_visible;  // largest number of compressed entries a row of the step sees, or an upper bound
};

// One step's way through any number of layers, on streams [num_tokens, hc, d] in place. The output of a sub-layer goes into the streams
// together with the entry of the next one, across layers too: the streams are those after the last layer only once finish() was called.
class LayerPass {
 public:
  // Everything must outlive the pass; `observer` may be nullptr.
  LayerPass(const BatchView& batch, Bf16* streams, Workspace& workspace, Backend& backend, LayerObserver* observer)
      : batch_(batch), streams_(streams), workspace_(workspace), backend_(backend), observer_(observer) {}

  // In a CSA layer workspace.selected holds the selected entries afterwards.
  void run(const LayerContext& layer);
  void finish();

 private:
  void layer_done();

  const BatchView& batch_;
  Bf16* streams_;
  Workspace& workspace_;
  Backend& backend_;
  LayerObserver* observer_;
  const ModelConfig* unfinished_ = nullptr;  // of the layer whose MoE output is not in the streams yet; nullptr: none
  int unfinished_idx_ = -1;
};

}  // namespace dsv4
