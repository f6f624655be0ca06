// A step of one sequence, as the benchmarks of the cache ops need it: rows at the end of a context, pages in order.
#pragma once

#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "base/dtype.h"
#include "ops/batch.h"
#include "ops/kv_layout.h"

namespace dsv4::bench {

struct OneSequence {
  std::vector<int32_t> token_ids, positions, seq_idx, row_begin, slots, page_table;

  // `num_rows` rows that end at position `context` − 1.
  OneSequence(int context, int num_rows)
      : token_ids(num_rows),
        positions(num_rows),
        seq_idx(num_rows),
        row_begin{0, num_rows},
        slots{0},
        page_table(context / kPagePositions + 1) {
    std::iota(positions.begin(), positions.end(), context - num_rows);
    std::iota(page_table.begin(), page_table.end(), 0);
  }

  int num_pages() const { return static_cast<int>(page_table.size()); }

  BatchView view() const {
    BatchView view;
    view.num_tokens = static_cast<int>(positions.size());
    view.num_seqs = 1;
    view.token_ids = token_ids.data();
    view.positions = positions.data();
    view.seq_idx = seq_idx.data();
    view.row_begin = row_begin.data();
    view.slots = slots.data();
    view.page_table = page_table.data();
    view.page_table_stride = num_pages();
    return view;
  }
};

inline std::vector<Bf16> random_bf16(size_t count, float stddev = 1.0f) {
  std::mt19937 generator(1);
  std::normal_distribution<float> normal(0.0f, stddev);
  std::vector<Bf16> values(count);
  for (Bf16& value : values) value = to_bf16(normal(generator));
  return values;
}

inline std::vector<float> random_floats(size_t count, float stddev = 1.0f) {
  std::mt19937 generator(2);
  std::normal_distribution<float> normal(0.0f, stddev);
  std::vector<float> values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

// Bytes below 0x70: finite as e4m3 codes, as bf16 halves, and as ue8m0 scales of a moderate size when masked by the caller.
inline std::vector<uint8_t> random_bytes(size_t count) {
  std::mt19937 generator(3);
  std::vector<uint8_t> bytes(count);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(generator() % 0x70);
  return bytes;
}

}  // namespace dsv4::bench
