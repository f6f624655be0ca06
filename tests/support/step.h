// A step's BatchView with its memory, and where the pages of its sequences lie.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/batch.h"

namespace dsv4::test {

// Rows of one sequence in a step.
struct SequenceRows {
  int slot;
  int first_position;
  int num_rows;
};

// Physical page of a slot's logical page: slots interleaved and pages descending, so that no two pages of a sequence are neighbours in
// order.
inline int physical_page(int slot, int logical_page, int num_slots, int pages_per_slot) {
  return (pages_per_slot - 1 - logical_page) * num_slots + (num_slots - 1 - slot);
}

struct Step {
  std::vector<int32_t> token_ids, positions, seq_idx, row_begin{0}, slots, page_table;
  int pages_per_slot;

  Step(const std::vector<SequenceRows>& sequences, int num_slots, int pages) : pages_per_slot(pages) {
    for (size_t seq = 0; seq < sequences.size(); ++seq) {
      const SequenceRows& rows = sequences[seq];
      for (int i = 0; i < rows.num_rows; ++i) {
        token_ids.push_back(0);
        positions.push_back(rows.first_position + i);
        seq_idx.push_back(static_cast<int32_t>(seq));
      }
      row_begin.push_back(static_cast<int32_t>(positions.size()));
      slots.push_back(rows.slot);
      for (int page = 0; page < pages; ++page) page_table.push_back(physical_page(rows.slot, page, num_slots, pages));
    }
  }

  // Another sequence, of one row of padding.
  void add_padding() {
    token_ids.push_back(0);
    positions.push_back(-1);
    seq_idx.push_back(static_cast<int32_t>(slots.size()));
    row_begin.push_back(static_cast<int32_t>(positions.size()));
    slots.push_back(-1);
    for (int page = 0; page < pages_per_slot; ++page) page_table.push_back(-1);
  }

  BatchView view() const {
    BatchView view;
    view.num_tokens = static_cast<int>(positions.size());
    view.num_seqs = static_cast<int>(slots.size());
    view.token_ids = token_ids.data();
    view.positions = positions.data();
    view.seq_idx = seq_idx.data();
    view.row_begin = row_begin.data();
    view.slots = slots.data();
    view.page_table = page_table.data();
    view.page_table_stride = pages_per_slot;
    return view;
  }
};

}  // namespace dsv4::test
