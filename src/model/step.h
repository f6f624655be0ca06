// One step's input on the host: which tokens of which sequences are computed together.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ops/batch.h"
#include "ops/buffer.h"
#include "ops/kv_layout.h"

namespace dsv4 {

// A ragged list of tokens, sequence after sequence (design section 2). Reused from step to step.
class StepInput {
 public:
  void clear();

  // Appends the tokens `token_ids` of one sequence at positions first_position, first_position + 1, …. `slot` owns its ring and compressor
  // state; `pages` are its physical pages and must cover the last position. A sequence may stand in a step once.
  void add_sequence(int slot, int first_position, std::span<const int32_t> token_ids, std::span<const int32_t> pages);

  int num_tokens() const { return static_cast<int>(token_ids_.size()); }
  int num_seqs() const { return static_cast<int>(slots_.size()); }
  int last_row(int seq_idx) const { return row_begin_[static_cast<size_t>(seq_idx) + 1] - 1; }
  // The largest position of a step that is not empty.
  int max_position() const;
  std::span<const int32_t> token_ids() const { return token_ids_; }
  std::span<const int32_t> positions() const { return positions_; }

 private:
  friend class DeviceStep;
  std::vector<int32_t> token_ids_;
  std::vector<int32_t> positions_;
  std::vector<int32_t> seq_idx_;
  std::vector<int32_t> row_begin_{0};
  std::vector<int32_t> slots_;
  std::vector<std::span<const int32_t>> pages_;  // must live until the step has run
};

// The same step in the backend's memory.
class DeviceStep {
 public:
  DeviceStep(Backend& backend, int max_tokens, int max_seqs, int max_pages_per_seq);

  // Copies `step` over and returns its view, valid until the next upload. Throws Error when it is larger than this was made for.
  BatchView upload(const StepInput& step);

 private:
  Backend& backend_;
  int max_tokens_;
  int max_seqs_;
  int max_pages_per_seq_;
  std::vector<int32_t> staging_;
  Buffer memory_;
};

}  // namespace dsv4
