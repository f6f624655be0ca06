// Weights for a model without a checkpoint: random, of the real shapes and formats, for benchmarks.
#pragma once

#include <cstdint>

#include "model/weights.h"

namespace dsv4 {

// Makes them in the backend's memory: FP8, FP4 and bf16 matrices with a standard deviation of about 1/√cols, so that activations stay of
// order 1; norms are 1, a random gate spreads tokens over the experts. No MTP block. The same seed gives the same weights.
ModelWeights dummy_weights(const ModelConfig& config, Backend& backend, uint64_t seed);

}  // namespace dsv4
