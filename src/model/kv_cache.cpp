#include "model/kv_cache.h"

namespace dsv4 {

int kv_ring_size(const ModelConfig& config, int max_step_tokens) {
  return config.sliding_window + max_step_tokens + kMaxRollback;
}

int compressor_state_tokens(int ratio) {
  return (ratio == 4 ? 2 * ratio : ratio) + kMaxRollback;
}

LayerCacheBytes layer_cache_bytes(const ModelConfig& config, int layer_idx, int max_step_tokens) {
  LayerCacheBytes bytes;
  const KvEntryLayout layout{config.head_dim};
  bytes.ring_per_slot = static_cast<int64_t>(layout.page_bytes(kv_ring_size(config, max_step_tokens)));
  const int ratio = config.ratio(layer_idx);
  if (ratio == 0) return bytes;
  const int64_t state_floats = int64_t{2} * compressor_state_tokens(ratio) * (ratio == 4 ? 2 : 1);
  bytes.state_per_slot = state_floats * config.head_dim * static_cast<int64_t>(sizeof(float));
  bytes.entries_per_page = static_cast<int64_t>(layout.page_bytes(kPagePositions / ratio));
  if (ratio == 4) {
    bytes.index_state_per_slot = state_floats * config.index_head_dim * static_cast<int64_t>(sizeof(float));
    bytes.index_entries_per_page = static_cast<int64_t>(IndexEntryLayout{config.index_head_dim}.page_bytes(kPagePositions / ratio));
  }
  return bytes;
}

KvCache::KvCache(const ModelConfig& config, const KvCacheOptions& options, bool with_mtp, Backend& backend) : options_(options) {
  const auto allocate = [&](int64_t bytes, int count) {
    return buffers_.emplace_back(backend, static_cast<size_t>(bytes) * static_cast<size_t>(count)).as<void>();
  };
  const int num_layers = config.num_hidden_layers + (with_mtp ? 1 : 0);
  for (int layer_idx = 0; layer_idx < num_layers; ++layer_idx) {
    const LayerCacheBytes bytes = layer_cache_bytes(config, layer_idx, options.max_step_tokens);
    const int ratio = config.ratio(layer_idx);
    LayerCache cache;
    cache.ring = {static_cast<uint8_t*>(allocate(bytes.ring_per_slot, options.num_slots)), kv_ring_size(config, options.max_step_tokens)};
    if (ratio != 0) {
      cache.entries = {static_cast<uint8_t*>(allocate(bytes.entries_per_page, options.num_pages)), kPagePositions / ratio};
      cache.state = static_cast<float*>(allocate(bytes.state_per_slot, options.num_slots));
      cache.state_tokens = compressor_state_tokens(ratio);
    }
    if (ratio == 4) {
      cache.index_entries = {static_cast<uint8_t*>(allocate(bytes.index_entries_per_page, options.num_pages)), kPagePositions / ratio};
      cache.index_state = static_cast<float*>(allocate(bytes.index_state_per_slot, options.num_slots));
    }
    layers_.push_back(cache);
  }
}

}  // namespace dsv4
