#include "runtime/random_cache.h"

#include <algorithm>
#include <map>
#include <random>
#include <vector>

namespace dsv4 {
namespace {

constexpr int64_t kPoolBytes = int64_t{1} << 25;
constexpr uint8_t kScaleOne = 127;    // ue8m0
constexpr uint8_t kSmallE4m3 = 0xbf;  // a mask that leaves codes of |x| < 2
constexpr uint8_t kSign = 0x80;
constexpr uint8_t kBf16Exponent = 0x3f;  // high byte of bf16 values from 0.5 to 2

// Pages of one shape, made once and copied wherever that shape occurs.
class PagePool {
 public:
  PagePool(Backend& backend, uint64_t seed) : backend_(backend), random_(seed) {}

  // Writes `num_pages` pages of `entries` FP8 entries.
  void fill_kv(const KvEntryLayout& layout, int entries, uint8_t* pages, int num_pages) {
    const auto write_page = [&](uint8_t* page) {
      for (int entry_idx = 0; entry_idx < entries; ++entry_idx) {
        uint8_t* values = page + layout.value_offset(entry_idx);
        for (int i = 0; i < layout.nope_dim(); ++i) values[i] &= kSmallE4m3;
        for (int i = 0; i < kRopeDim; ++i) {
          uint8_t& high = values[layout.nope_dim() + 2 * i + 1];
          high = static_cast<uint8_t>((high & kSign) | kBf16Exponent);
        }
        std::fill_n(page + layout.scale_offset(entry_idx, entries), layout.scale_bytes(), kScaleOne);
      }
    };
    copy(layout.page_bytes(entries), write_page, pages, num_pages);
  }

  // The same of indexer entries: every pair of e2m1 codes is valid.
  void fill_index(const IndexEntryLayout& layout, int entries, uint8_t* pages, int num_pages) {
    const auto write_page = [&](uint8_t* page) {
      std::fill_n(page + layout.scale_offset(0, entries), static_cast<size_t>(entries) * layout.scale_bytes(), kScaleOne);
    };
    copy(layout.page_bytes(entries), write_page, pages, num_pages);
  }

 private:
  template <typename WritePage>
  void copy(size_t page_bytes, const WritePage& write_page, uint8_t* pages, int num_pages) {
    std::vector<uint8_t>& pool = pools_[page_bytes];
    const auto pool_pages = static_cast<size_t>(std::clamp<int64_t>(kPoolBytes / static_cast<int64_t>(page_bytes), 1, num_pages));
    while (pool.size() < pool_pages * page_bytes) {
      const size_t begin = pool.size();
      pool.resize(begin + page_bytes);
      for (size_t i = begin; i < pool.size(); ++i) pool[i] = static_cast<uint8_t>(random_());
      write_page(pool.data() + begin);
    }
    for (size_t page = 0; page < static_cast<size_t>(num_pages); page += pool_pages) {
      const size_t count = std::min(pool_pages, static_cast<size_t>(num_pages) - page);
      backend_.copy_from_host(pages + page * page_bytes, pool.data(), count * page_bytes);
    }
  }

  Backend& backend_;
  std::mt19937_64 random_;
  std::map<size_t, std::vector<uint8_t>> pools_;  // by the size of a page, which tells its shape
};

}  // namespace

void fill_random_cache(const ModelConfig& config, const KvCache& cache, uint64_t seed, Backend& backend) {
  const KvEntryLayout layout{config.head_dim};
  const IndexEntryLayout index_layout{config.index_head_dim};
  // A pool for each layout: a page of one may be as long as a page of the other.
  PagePool rings(backend, seed);
  PagePool entries(backend, seed + 1);
  PagePool index_entries(backend, seed + 2);
  const KvCacheOptions& options = cache.options();
  for (int layer_idx = 0; layer_idx < config.num_hidden_layers; ++layer_idx) {
    const LayerCache& layer = cache.layer(layer_idx);
    rings.fill_kv(layout, layer.ring.ring_size, layer.ring.data, options.num_slots);
    if (layer.entries.data != nullptr) entries.fill_kv(layout, layer.entries.entries_per_page, layer.entries.data, options.num_pages);
    if (layer.index_entries.data != nullptr) {
      index_entries.fill_index(index_layout, layer.index_entries.entries_per_page, layer.index_entries.data, options.num_pages);
    }
  }
  backend.synchronize();
}

}  // namespace dsv4
