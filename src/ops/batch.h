// A step's tokens: a flat ragged list of prefill-chunk and decode tokens of any number of sequences (design section 2).
#pragma once

#include <cstdint>

namespace dsv4 {

// All arrays live where the backend computes. The rows of one sequence stand together in ascending, consecutive positions.
struct BatchView {
  int num_tokens = 0;
  int num_seqs = 0;
  const int32_t* token_ids = nullptr;   // [num_tokens]
  const int32_t* positions = nullptr;   // [num_tokens], 0-based
  const int32_t* seq_idx = nullptr;     // [num_tokens], index of the row's sequence within this step
  const int32_t* row_begin = nullptr;   // [num_seqs + 1], first row of each sequence; row_begin[num_seqs] = num_tokens
  const int32_t* slots = nullptr;       // [num_seqs], which ring and compressor state the sequence owns
  const int32_t* page_table = nullptr;  // [num_seqs, page_table_stride], physical page of each logical page
  int page_table_stride = 0;
};

// Compressed entries of ratio r that the token at `position` may see: entries c < ⌊(position+1)/r⌋ (spec 2.7, 2.8).
constexpr int num_visible_entries(int position, int ratio) {
  return (position + 1) / ratio;
}

}  // namespace dsv4
