// A model with its cache and decode steps on one backend, for tests that hold backends against each other.
#pragma once

#include <cmath>
#include <memory>
#include <vector>

#include "base/error.h"
#include "model/decode.h"
#include "model/forward.h"
#include "model/kv_cache.h"

namespace dsv4::test {

// Slots of `context` positions each; slot s owns the pages s, s + num_slots, ….
struct DeviceModel {
  static constexpr int kStepTokens = 1024;

  DeviceModel(Backend& own, const ModelConfig& config, ModelWeights weights, int slots, int context)
      : backend(own),
        num_slots(slots),
        max_context(context),
        model(config, std::move(weights), own, {kStepTokens, slots, slots, decode_size(slots), context}),
        cache(config, {slots, slots * num_pages(), kStepTokens}, false, own),
        kept(own, static_cast<size_t>(slots) * static_cast<size_t>(config.vocab_size) * sizeof(float)),
        decode(model, cache, own, kept.as<float>(), slots, context) {
    for (int slot = 0; slot < slots; ++slot) {
      pages.emplace_back();
      for (int page = 0; page < num_pages(); ++page) pages.back().push_back(page * slots + slot);
    }
  }

  int num_pages() const { return (max_context + kPagePositions - 1) / kPagePositions; }
  size_t vocab_size() const { return static_cast<size_t>(model.config().vocab_size); }

  void prefill(int slot, std::span<const int32_t> tokens, int first_position = 0) {
    StepInput step;
    step.add_sequence(slot, first_position, tokens, pages[static_cast<size_t>(slot)]);
    model.forward(step, cache);
  }
  DecodeRow row(int slot, int32_t token_id, int position) const {
    return {slot, token_id, position, pages[static_cast<size_t>(slot)], SampleRow{}};
  }
  std::vector<float> host_logits(const float* logits) const {
    std::vector<float> values(vocab_size());
    backend.copy_to_host(values.data(), logits, values.size() * sizeof(float));
    return values;
  }
  // Logits of a row of the last forward().
  std::vector<float> logits(int row_idx) {
    const int32_t rows[] = {row_idx};
    return host_logits(model.logits(rows));
  }
  // Logits of a slot of the last decode step it was in.
  std::vector<float> kept_logits(int slot) const { return host_logits(kept.as<float>() + static_cast<size_t>(slot) * vocab_size()); }

  // Every byte of the cache, part by part.
  std::vector<std::vector<uint8_t>> cache_bytes() const {
    std::vector<std::vector<uint8_t>> parts;
    for_each_part([&](void* part, size_t bytes) {
      parts.emplace_back(bytes);
      backend.copy_to_host(parts.back().data(), part, bytes);
    });
    return parts;
  }
  void set_cache_bytes(const std::vector<std::vector<uint8_t>>& parts) {
    size_t next = 0;
    for_each_part([&](void* part, size_t bytes) {
      require(parts.at(next).size() == bytes, "cache part {}: {} bytes, expected {}", next, parts[next].size(), bytes);
      backend.copy_from_host(part, parts[next++].data(), bytes);
    });
    backend.synchronize();
  }

  Backend& backend;
  int num_slots;
  int max_context;
  Model model;
  KvCache cache;
  Buffer kept;
  DecodeStep decode;
  std::vector<std::vector<int32_t>> pages;

 private:
  template <typename Visit>
  void for_each_part(Visit visit) const {
    const ModelConfig& config = model.config();
    for (int layer_idx = 0; layer_idx < config.num_hidden_layers; ++layer_idx) {
      const LayerCacheBytes bytes = layer_cache_bytes(config, layer_idx, kStepTokens);
      const LayerCache& layer = cache.layer(layer_idx);
      const auto part = [&](void* data, int64_t each, int count) {
        if (each > 0) visit(data, static_cast<size_t>(each) * static_cast<size_t>(count));
      };
      part(layer.ring.data, bytes.ring_per_slot, num_slots);
      part(layer.state, bytes.state_per_slot, num_slots);
      part(layer.index_state, bytes.index_state_per_slot, num_slots);
      part(layer.entries.data, bytes.entries_per_page, num_slots * num_pages());
      part(layer.index_entries.data, bytes.index_entries_per_page, num_slots * num_pages());
    }
  }
};

inline double cosine(const std::vector<float>& a, const std::vector<float>& b) {
  double ab = 0.0, aa = 0.0, bb = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    ab += static_cast<double>(a[i]) * b[i];
    aa += static_cast<double>(a[i]) * a[i];
    bb += static_cast<double>(b[i]) * b[i];
  }
  return ab / std::sqrt(aa * bb);
}

}  // namespace dsv4::test
