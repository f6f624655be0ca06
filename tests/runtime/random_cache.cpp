#include "runtime/random_cache.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "backend/cpu/backend.h"
#include "base/dtype.h"

namespace dsv4 {
namespace {

ModelConfig small_config() {
  ModelConfig config;
  config.num_hidden_layers = 3;
  config.num_nextn_predict_layers = 0;
  config.compress_ratios = {0, 4, 128};
  config.head_dim = 128;
  config.num_hash_layers = 0;
  return config;
}

// Every value of one FP8 entry (spec 4.2), read byte by byte.
std::vector<float> entry_values(const KvEntryLayout& layout, const uint8_t* page, int entry_idx, int entries) {
  std::vector<float> values;
  const uint8_t* codes = page + layout.value_offset(entry_idx);
  const uint8_t* scales = page + layout.scale_offset(entry_idx, entries);
  for (int i = 0; i < layout.nope_dim(); ++i) values.push_back(e4m3_to_float(codes[i]) * ue8m0_to_float(scales[i / kKvBlock]));
  for (int i = 0; i < kRopeDim; ++i) {
    const uint8_t* bytes = codes + layout.nope_dim() + 2 * i;
    values.push_back(to_float(Bf16{static_cast<uint16_t>(bytes[0] | bytes[1] << 8)}));
  }
  return values;
}

TEST(RandomCache, EntriesAreFiniteOfOrderOneAndDifferent) {
  const ModelConfig config = small_config();
  const std::unique_ptr<Backend> backend = make_cpu_backend();
  const KvCache cache(config, {2, 5, 16}, false, *backend);
  fill_random_cache(config, cache, 7, *backend);
  const KvEntryLayout layout{config.head_dim};
  std::set<std::vector<float>> seen;
  size_t num_entries = 0;
  const auto check_pages = [&](const uint8_t* pages, int num_pages, int entries) {
    for (int page = 0; page < num_pages; ++page) {
      for (int entry_idx = 0; entry_idx < entries; ++entry_idx) {
        const std::vector<float> values = entry_values(layout, pages + page * layout.page_bytes(entries), entry_idx, entries);
        double squares = 0.0;
        for (float value : values) {
          ASSERT_LE(std::fabs(value), 2.0f);  // false for NaN
          squares += double{value} * value;
        }
        EXPECT_GT(squares / static_cast<double>(values.size()), 0.05);
        seen.insert(values);
        ++num_entries;
      }
    }
  };
  check_pages(cache.layer(0).ring.data, 2, cache.layer(0).ring.ring_size);
  check_pages(cache.layer(1).entries.data, 5, 64);
  EXPECT_EQ(seen.size(), num_entries);
  check_pages(cache.layer(2).entries.data, 5, 2);

  const IndexEntryLayout index_layout{config.index_head_dim};
  std::set<std::string> keys;
  for (int page = 0; page < 5; ++page) {
    const uint8_t* base = cache.layer(1).index_entries.data + page * index_layout.page_bytes(64);
    for (int entry_idx = 0; entry_idx < 64; ++entry_idx) {
      const uint8_t* values = base + index_layout.value_offset(entry_idx);
      keys.insert(std::string(values, values + index_layout.value_bytes()));
      for (size_t i = 0; i < index_layout.scale_bytes(); ++i) EXPECT_EQ(base[index_layout.scale_offset(entry_idx, 64) + i], 127);
    }
  }
  EXPECT_EQ(keys.size(), 5u * 64);
}

TEST(RandomCache, TheSeedDecides) {
  const ModelConfig config = small_config();
  const std::unique_ptr<Backend> backend = make_cpu_backend();
  const auto bytes = [&](uint64_t seed) {
    const KvCache cache(config, {1, 1, 4}, false, *backend);
    fill_random_cache(config, cache, seed, *backend);
    const uint8_t* page = cache.layer(1).entries.data;
    return std::string(page, page + KvEntryLayout{config.head_dim}.page_bytes(64));
  };
  EXPECT_EQ(bytes(1), bytes(1));
  EXPECT_NE(bytes(1), bytes(2));
}

}  // namespace
}  // namespace dsv4
