#include "model/kv_cache.h"

#include <gtest/gtest.h>

#include <set>

#include "backend/cpu/backend.h"

namespace dsv4 {
namespace {

// Spec 4.2–4.4: Flash and Pro have the same bytes per CSA and HCA layer.
TEST(KvCache, LayerBytesFollowTheFormats) {
  ModelConfig config;
  config.num_hidden_layers = 3;
  config.compress_ratios = {0, 4, 128, 0};
  const int step_tokens = 120;  // with the window 128 and the rollback reserve 8: rings of one FlashMLA page of 256
  EXPECT_EQ(kv_ring_size(config, step_tokens), 256);

  const LayerCacheBytes swa = layer_cache_bytes(config, 0, step_tokens);
  EXPECT_EQ(swa.per_slot(), 149760);
  EXPECT_EQ(swa.per_page(), 0);

  const LayerCacheBytes csa = layer_cache_bytes(config, 1, step_tokens);
  EXPECT_EQ(csa.entries_per_page, 37440);       // 64 entries of 584 bytes, padded to whole value parts
  EXPECT_EQ(csa.index_entries_per_page, 4352);  // 64 entries of 68 bytes
  // The reference keeps 8 rows (65,536 and 16,384 bytes); eight more make rollback possible.
  EXPECT_EQ(csa.state_per_slot, 2 * 65536);
  EXPECT_EQ(csa.index_state_per_slot, 2 * 16384);

  const LayerCacheBytes hca = layer_cache_bytes(config, 2, step_tokens);
  EXPECT_EQ(hca.per_page(), 1728);
  EXPECT_EQ(hca.state_per_slot, 524288 / 128 * 136);
}

TEST(KvCache, PartsExistWhereTheLayerKindHasThemAndDoNotOverlap) {
  ModelConfig config;
  config.head_dim = 64;
  config.num_hidden_layers = 3;
  config.compress_ratios = {0, 4, 128, 0};
  const auto backend = make_cpu_backend();
  const KvCache cache(config, {2, 3, 16}, true, *backend);
  EXPECT_EQ(cache.layer(0).entries.data, nullptr);
  EXPECT_EQ(cache.layer(0).state, nullptr);
  EXPECT_EQ(cache.layer(1).entries.entries_per_page, 64);
  EXPECT_EQ(cache.layer(1).index_entries.entries_per_page, 64);
  EXPECT_EQ(cache.layer(1).state_tokens, 16);
  EXPECT_EQ(cache.layer(2).entries.entries_per_page, 2);
  EXPECT_EQ(cache.layer(2).index_entries.data, nullptr);
  EXPECT_EQ(cache.layer(2).state_tokens, 136);
  std::set<const void*> parts;
  for (int layer_idx = 0; layer_idx < 4; ++layer_idx) {
    const LayerCache& layer = cache.layer(layer_idx);
    for (const void* part : {static_cast<const void*>(layer.ring.data), static_cast<const void*>(layer.entries.data),
                             static_cast<const void*>(layer.index_entries.data), static_cast<const void*>(layer.state),
                             static_cast<const void*>(layer.index_state)}) {
      if (part != nullptr) {
        EXPECT_TRUE(parts.insert(part).second);
      }
    }
  }
  EXPECT_EQ(parts.size(), 4u + 4u + 2u);  // four rings, four more parts of CSA, two of HCA
  EXPECT_THROW(cache.layer(4), std::out_of_range);
}

}  // namespace
}  // namespace dsv4
