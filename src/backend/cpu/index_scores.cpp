// Scores by exact integer products. An e2m1 value is half of a small integer, so the dot product of a 32-dim block is an exact int16 sum;
// only the few block sums of a vector meet in fp32. Entries are decoded and transposed in tiles (dims major, entries in the vector lanes),
// once for all heads and for a group of rows of one sequence.
#include <algorithm>
#include <bit>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "backend/cpu/kv_codec.h"
#include "backend/cpu/leaf.h"
#include "backend/cpu/ops.h"
#include "backend/cpu/parallel.h"
#include "base/error.h"

namespace dsv4::cpu {
namespace {

inline constexpr int kTileEntries = 64;
inline constexpr int kRowGroup = 16;      // rows that share a decoded tile
inline constexpr int kSpanEntries = 512;  // entries of one work item
inline constexpr int kHeadGroup = 4;      // heads whose sums stay in registers together
inline constexpr int kMaxIndexHeadDim = 512;
inline constexpr int kMaxBlocks = kMaxIndexHeadDim / kIndexerFp4Block;

// Scores of rows [row_begin, row_begin + num_rows) with the entries [entry_begin, entry_end) of their sequence.
struct WorkItem {
  int seq_idx;
  int row_begin;
  int num_rows;
  int entry_begin;
  int entry_end;
};

std::vector<WorkItem> work_items(const IndexScoresParams& params) {
  std::vector<WorkItem> items;
  for (int row = params.row_begin; row < params.row_end;) {
    const int seq_idx = params.batch.seq_idx[row];
    const int group_end = std::min({row + kRowGroup, params.row_end, static_cast<int>(params.batch.row_begin[seq_idx + 1])});
    const int num_visible = num_visible_entries(params.batch.positions[group_end - 1], params.ratio);
    if (num_visible > params.topk) {
      for (int entry = 0; entry < num_visible; entry += kSpanEntries) {
        items.push_back({seq_idx, row, group_end - row, entry, std::min(entry + kSpanEntries, num_visible)});
      }
    }
    row = group_end;
  }
  return items;
}

// A decoded tile: twice the e2m1 values, transposed, and the scales.
struct KeyTile {
  alignas(64) int16_t twice[kMaxIndexHeadDim * kTileEntries];  // [dim][kTileEntries]
  alignas(64) float scales[kMaxBlocks * kTileEntries];         // [dim/32][kTileEntries]
};

// The query heads of one row in the same form.
struct QueryRow {
  std::vector<int16_t> twice;  // [num_heads, dim]
  std::vector<float> scales;   // [num_heads, dim/32], a quarter of the scale: both factors of a product are doubled
  std::vector<float> weights;  // [num_heads]
};

// ---- Decoding. A unit is 16 bits of an entry's codes: 4 dims. Units are transposed so that the lanes of a register hold one unit of
// kBytes/2 entries.

// Interleaves the units of a and b within every 16 bytes: the low four of each, or the high four.
template <class Vector, int kHalf, size_t... kLane>
DSV4_INLINE void interleave(const Vector& a, const Vector& b, std::index_sequence<kLane...>, Vector& out) {
  constexpr int kNumLanes = sizeof...(kLane);
  out = __builtin_shufflevector(a, b, (kLane / 8 * 8 + kLane % 8 / 2 + 4 * kHalf + (kLane % 2) * kNumLanes)...);
}

// Transposes 8×8 units within every 16 bytes: interleaving rows i and i + 4 three times over.
template <class Vector>
DSV4_INLINE void transpose_units(Vector* rows) {
  constexpr auto kAllLanes = std::make_index_sequence<sizeof(Vector) / 2>();
  for (int round = 0; round < 3; ++round) {
    Vector next[8];
    for (int i = 0; i < 4; ++i) {
      interleave<Vector, 0>(rows[i], rows[i + 4], kAllLanes, next[2 * i]);
      interleave<Vector, 1>(rows[i], rows[i + 4], kAllLanes, next[2 * i + 1]);
    }
    for (int i = 0; i < 8; ++i) rows[i] = next[i];
  }
}

template <class Half, class Vector, size_t... kLane>
DSV4_INLINE void join(const Half& low, const Half& high, std::index_sequence<kLane...>, Vector& out) {
  out = __builtin_shufflevector(low, high, kLane...);
}

// Loads 16 bytes at `offset` of each of kBytes/16 entries, which stand 8 apart in the list.
template <int kBytes>
DSV4_INLINE void load_units(const uint8_t* const* values, int offset, typename Vec<kBytes>::I16& units) {
  if constexpr (kBytes == 16) {
    load(values[0] + offset, units);
  } else {
    typename Vec<kBytes / 2>::I16 low, high;
    load_units<kBytes / 2>(values, offset, low);
    load_units<kBytes / 2>(values + kBytes / 4, offset, high);
    join(low, high, std::make_index_sequence<kBytes / 2>(), units);
  }
}

// kTwiceE2M1 of the low four bits of every lane; the bits above them are arbitrary.
template <class Vector>
DSV4_INLINE void twice_e2m1(const Vector& units, Vector& out) {
#if __has_builtin(__builtin_shuffle)
  if constexpr (sizeof(Vector) == 64) {
    // One instruction looks up 32 lanes by their low five bits.
    constexpr Vector kTable = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12,
                               0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    out = __builtin_shuffle(kTable, units);
    return;
  }
#endif
  const Vector magnitude = units & 7;
  // 0 1 2 3 4 5 6 7 → 0 1 2 3 4 6 8 12: one more from 5 on, another from 6 on, three more at 7. Masks come from arithmetic shifts, which
  // every instruction set has.
  const Vector grown = magnitude + (((4 - magnitude) >> 15) & 1) + (((5 - magnitude) >> 15) & 1) + (((6 - magnitude) >> 15) & 3);
  const Vector negative = (units << 12) >> 15;
  out = (grown ^ negative) - negative;
}

template <int kBytes>
DSV4_INLINE void decode_tile_wide(const uint8_t* const* values, int dim, int16_t* twice) {
  using I16 = typename Vec<kBytes>::I16;
  for (int offset = 0; offset < dim / 2; offset += 16) {
    for (int entry = 0; entry < kTileEntries; entry += kBytes / 2) {
      I16 units[8];
      for (int i = 0; i < 8; ++i) load_units<kBytes>(values + entry + i, offset, units[i]);
      transpose_units(units);
      for (int i = 0; i < 8; ++i) {
        for (int nibble = 0; nibble < 4; ++nibble) {
          I16 decoded;
          twice_e2m1(units[i] >> (4 * nibble), decoded);
          store(decoded, twice + (2 * offset + 4 * i + nibble) * kTileEntries + entry);
        }
      }
    }
  }
}

// scales[block][entry] for up to four consecutive blocks, whose codes are the bytes of one word per entry.
template <int kBytes>
DSV4_INLINE void decode_scales_wide(const uint32_t* words, int num_blocks, float* scales) {
  for (int block = 0; block < num_blocks; ++block) {
    for (int entry = 0; entry < kTileEntries; ++entry) {
      const uint32_t code = (words[entry] >> (8 * block)) & 0xffu;
      const uint32_t nan = code == 255 ? 0x00400000u : 0u;
      const uint32_t smallest = code == 0 ? 0x00400000u : 0u;
      scales[block * kTileEntries + entry] = std::bit_cast<float>((code << 23) | nan | smallest);
    }
  }
}

// ---- Products.

// dots[h][entry] = q_h·k_entry for kHeads consecutive heads: exact block sums, added in fp32 in the order of the blocks. |sum| ≤ 32·12·12 <
// 2^15.
template <int kBytes, int kHeads>
DSV4_INLINE void tile_dots(const int16_t* query, const float* query_scales, const KeyTile& tile, int dim, float* dots) {
  using I16 = typename Vec<kBytes>::I16;
  constexpr int kEntries = kBytes;  // entries whose sums stay in registers: two registers of int16
  const int num_blocks = dim / kIndexerFp4Block;
  for (int block = 0; block < num_blocks; ++block) {
    int16_t block_sums[kHeads][kTileEntries];
    for (int entry = 0; entry < kTileEntries; entry += kEntries) {
      I16 sums[kHeads][2] = {};
      for (int i = block * kIndexerFp4Block; i < (block + 1) * kIndexerFp4Block; ++i) {
        I16 keys[2];
        for (int v = 0; v < 2; ++v) load(tile.twice + i * kTileEntries + entry + v * kEntries / 2, keys[v]);
        for (int h = 0; h < kHeads; ++h) {
          for (int v = 0; v < 2; ++v) sums[h][v] += keys[v] * query[h * dim + i];
        }
      }
      for (int h = 0; h < kHeads; ++h) {
        for (int v = 0; v < 2; ++v) store(sums[h][v], block_sums[h] + entry + v * kEntries / 2);
      }
    }
    const float* key_scales = tile.scales + block * kTileEntries;
    for (int h = 0; h < kHeads; ++h) {
      const float query_scale = query_scales[h * num_blocks + block];
      float* out = dots + h * kTileEntries;
      for (int entry = 0; entry < kTileEntries; ++entry) {
        const float term = static_cast<float>(block_sums[h][entry]) * query_scale * key_scales[entry];
        out[entry] = block == 0 ? term : out[entry] + term;
      }
    }
  }
}

// scores[entry] = bf( Σ_h bf( relu(bf(dot_h))·w_h ) ) for every entry of the tile.
template <int kBytes>
DSV4_INLINE void score_tile_wide(const int16_t* query, const float* query_scales, const float* weights, int num_heads, int dim,
                                 const KeyTile& tile, Bf16* scores) {
  const int num_blocks = dim / kIndexerFp4Block;
  alignas(64) float sums[kTileEntries] = {};
  alignas(64) float dots[kHeadGroup * kTileEntries];
  for (int head = 0; head < num_heads;) {
    const int count = num_heads - head >= kHeadGroup ? kHeadGroup : 1;
    if (count == kHeadGroup) {
      tile_dots<kBytes, kHeadGroup>(query + head * dim, query_scales + head * num_blocks, tile, dim, dots);
    } else {
      tile_dots<kBytes, 1>(query + head * dim, query_scales + head * num_blocks, tile, dim, dots);
    }
    for (int h = 0; h < count; ++h) {
      const float weight = weights[head + h];
      for (int entry = 0; entry < kTileEntries; ++entry) {
        const float dot = round_bf16(dots[h * kTileEntries + entry]);
        sums[entry] += round_bf16((dot > 0.0f ? dot : 0.0f) * weight);
      }
    }
    head += count;
  }
  for (int entry = 0; entry < kTileEntries; ++entry) scores[entry] = to_bf16(sums[entry]);
}

DSV4_LEAF(decode_tile, (const uint8_t* const* values, int dim, int16_t* twice), (values, dim, twice))
DSV4_LEAF(decode_scales, (const uint32_t* words, int num_blocks, float* scales), (words, num_blocks, scales))
DSV4_LEAF(score_tile,
          (const int16_t* query, const float* query_scales, const float* weights, int num_heads, int dim, const KeyTile& tile,
           Bf16* scores),
          (query, query_scales, weights, num_heads, dim, tile, scores))

void load_query(const IndexScoresParams& params, int row, QueryRow& query) {
  const int dim = params.index_head_dim;
  const int num_blocks = dim / kIndexerFp4Block;
  const int64_t first_head = static_cast<int64_t>(row) * params.num_heads;
  const uint8_t* codes = params.codes + first_head * dim / 2;
  const uint8_t* scales = params.scales + first_head * num_blocks;
  query.twice.resize(static_cast<size_t>(params.num_heads) * dim);
  query.scales.resize(static_cast<size_t>(params.num_heads) * num_blocks);
  query.weights.resize(params.num_heads);
  for (size_t i = 0; i < query.twice.size(); i += 2) {
    query.twice[i] = kTwiceE2M1[codes[i / 2] & 15];
    query.twice[i + 1] = kTwiceE2M1[codes[i / 2] >> 4];
  }
  for (size_t i = 0; i < query.scales.size(); ++i) query.scales[i] = 0.25f * ue8m0_to_float(scales[i]);
  for (int head = 0; head < params.num_heads; ++head) query.weights[head] = to_float(params.weights[first_head + head]);
}

// Up to four bytes as a little-endian word.
uint32_t read_word(const uint8_t* bytes, int count) {
  uint32_t word = 0;
  if (count == 4) {
    std::memcpy(&word, bytes, 4);
  } else {
    for (int i = 0; i < count; ++i) word |= static_cast<uint32_t>(bytes[i]) << (8 * i);
  }
  return word;
}

// Decodes the entries [begin, end) of the sequence into the tile; the lanes behind them repeat the last one.
void load_tile(const IndexScoresParams& params, int seq_idx, int begin, int end, KeyTile& tile) {
  const IndexEntryLayout layout{params.index_head_dim};
  const int num_blocks = params.index_head_dim / kIndexerFp4Block;
  const int32_t* page_table = params.batch.page_table + static_cast<int64_t>(seq_idx) * params.batch.page_table_stride;
  const int entries_per_page = params.entries.entries_per_page;
  const uint8_t* values[kTileEntries];
  const uint8_t* scales[kTileEntries];
  int page = begin / entries_per_page;
  int entry_idx = begin % entries_per_page;
  for (int lane = 0; lane < kTileEntries; ++lane) {
    const EntryBytes bytes = entry_bytes(layout, params.entries.data, page_table[page], entries_per_page, entry_idx);
    values[lane] = bytes.values;
    scales[lane] = bytes.scales;
    if (begin + lane + 1 < end && ++entry_idx == entries_per_page) {
      entry_idx = 0;
      ++page;
    }
  }
  decode_tile(values, params.index_head_dim, tile.twice);
  for (int block = 0; block < num_blocks; block += 4) {
    const int count = std::min(4, num_blocks - block);
    uint32_t words[kTileEntries];
    for (int lane = 0; lane < kTileEntries; ++lane) words[lane] = read_word(scales[lane] + block, count);
    decode_scales(words, count, tile.scales + block * kTileEntries);
  }
}

void score_item(const IndexScoresParams& params, const WorkItem& item, std::vector<QueryRow>& queries, KeyTile& tile) {
  for (int i = 0; i < item.num_rows; ++i) load_query(params, item.row_begin + i, queries[i]);
  for (int begin = item.entry_begin; begin < item.entry_end; begin += kTileEntries) {
    load_tile(params, item.seq_idx, begin, std::min(begin + kTileEntries, item.entry_end), tile);
    for (int i = 0; i < item.num_rows; ++i) {
      const int row = item.row_begin + i;
      const int num_visible = num_visible_entries(params.batch.positions[row], params.ratio);
      if (num_visible <= params.topk || num_visible <= begin) continue;
      Bf16 scores[kTileEntries];
      const QueryRow& query = queries[i];
      score_tile(query.twice.data(), query.scales.data(), query.weights.data(), params.num_heads, params.index_head_dim, tile, scores);
      const int count = std::min({kTileEntries, num_visible - begin, item.entry_end - begin});
      std::copy_n(scores, count, params.scores + (row - params.row_begin) * params.score_stride + begin);
    }
  }
}

}  // namespace

void index_scores(const IndexScoresParams& params) {
  const int dim = params.index_head_dim;
  require(dim > 0 && dim <= kMaxIndexHeadDim && dim % kIndexerFp4Block == 0,
          "index_scores: index_head_dim {}, expected a multiple of {} up to {}", dim, kIndexerFp4Block, kMaxIndexHeadDim);
  const std::vector<WorkItem> items = work_items(params);
  const int64_t work_per_item = int64_t{kSpanEntries} * params.num_heads * dim / 8;
  parallel_for(static_cast<int64_t>(items.size()), work_per_item, [&](int64_t begin, int64_t end) {
    std::vector<QueryRow> queries(kRowGroup);
    const auto tile = std::make_unique<KeyTile>();
    for (int64_t i = begin; i < end; ++i) score_item(params, items[i], queries, *tile);
  });
}

}  // namespace dsv4::cpu
