// A step of one sequence at the end of a context, as the benchmarks of the cache ops need it: slot 0, pages in order.
#pragma once

#include <cstdint>
#include <numeric>
#include <vector>

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

}  // namespace dsv4::bench
