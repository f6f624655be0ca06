// The KV memory of a model: per layer a window ring and compressor state for every sequence slot, and pages of compressed entries shared by
// all.
#pragma once

#include <vector>

#include "model/config.h"
#include "ops/buffer.h"
#include "ops/kv_layout.h"

namespace dsv4 {

// Extra tokens that rings and states keep beyond what the next token needs, so that as many rejected draft tokens can be taken back.
inline constexpr int kMaxRollback = 8;

struct KvCacheOptions {
  int num_slots = 1;        // sequences that can be open at once
  int num_pages = 1;        // pages of kPagePositions positions shared by them; page ids are the same in every layer
  int max_step_tokens = 1;  // longest run of one sequence's tokens in a step
};

// What one layer keeps. Pointers are null where its kind has no such part.
struct LayerCache {
  WindowRing ring;
  PagedEntries entries;          // CSA and HCA
  PagedEntries index_entries;    // CSA
  float* state = nullptr;        // main compressor, see CompressParams::state
  float* index_state = nullptr;  // indexer's compressor
  int state_tokens = 0;
};

// Bytes of each part of one layer's cache: what KvCache allocates and the memory plan counts.
struct LayerCacheBytes {
  int64_t ring_per_slot = 0;
  int64_t state_per_slot = 0;
  int64_t index_state_per_slot = 0;
  int64_t entries_per_page = 0;
  int64_t index_entries_per_page = 0;

  int64_t per_slot() const { return ring_per_slot + state_per_slot + index_state_per_slot; }
  int64_t per_page() const { return entries_per_page + index_entries_per_page; }
};

// Ring entries per slot: the window before a step, the step itself, and the rollback reserve.
int kv_ring_size(const ModelConfig& config, int max_step_tokens);
// (a, b) rows per slot that a compressor of this ratio keeps.
int compressor_state_tokens(int ratio);
LayerCacheBytes layer_cache_bytes(const ModelConfig& config, int layer_idx, int max_step_tokens);

class KvCache {
 public:
  // Layers 0 … num_hidden_layers − 1, then the MTP block if `with_mtp`. Memory is committed as it is touched on the CPU.
  KvCache(const ModelConfig& config, const KvCacheOptions& options, bool with_mtp, Backend& backend);

  const LayerCache& layer(int layer_idx) const { return layers_.at(static_cast<size_t>(layer_idx)); }
  const KvCacheOptions& options() const { return options_; }

 private:
  KvCacheOptions options_;
  std::vector<LayerCache> layers_;
  std::vector<Buffer> buffers_;
};

}  // namespace dsv4
