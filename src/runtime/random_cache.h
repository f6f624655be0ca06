// Caches with random contents, for benchmarks of long contexts that nobody wants to wait for.
#pragma once

#include <cstdint>

#include "model/config.h"
#include "model/kv_cache.h"

namespace dsv4 {

// Fills every window ring and every page of `cache` with valid random entries: finite values of order 1, different entries nearly
// everywhere (a layer repeats its pages after some thousand entries). Compressor states stay as they are.
void fill_random_cache(const ModelConfig& config, const KvCache& cache, uint64_t seed, Backend& backend);

}  // namespace dsv4
