// One transformer layer over a ragged step: mHC(attention), then mHC(MoE) (spec 2.3–2.11).
#pragma once

#include <cstdint>

#include "model/config.h"
#include "model/kv_cache.h"
#include "model/weights.h"
#include "model/workspace.h"
#include "ops/backend.h"

namespace dsv4 {

// Everything a layer needs besides its streams; the references must outlive the call.
struct LayerContext {
  const ModelConfig& config;
  const LayerWeights& weights;
  const LayerCache& cache;
  const float* freqs;   // the layer's own rotary frequencies, backend memory
  int ratio;            // of compressed entries: 0 (SWA), 4 (CSA), 128 (HCA)
  int max_visible;      // largest number of compressed entries a row of the step sees
};

// streams [num_tokens, hc, d] in place. In a CSA layer workspace.selected holds the selected entries afterwards.
void run_layer(const LayerContext& layer, const BatchView& batch, Bf16* streams, Workspace& workspace, Backend& backend);

}  // namespace dsv4
