#include "model/step.h"

#include <algorithm>

#include "base/error.h"

namespace dsv4 {

void StepInput::clear() {
  token_ids_.clear();
  positions_.clear();
  seq_idx_.clear();
  row_begin_.assign(1, 0);
  slots_.clear();
  pages_.clear();
}

void StepInput::add_sequence(int slot, int first_position, std::span<const int32_t> token_ids, std::span<const int32_t> pages) {
  const int num_tokens = static_cast<int>(token_ids.size());
  token_ids_.insert(token_ids_.end(), token_ids.begin(), token_ids.end());
  for (int i = 0; i < num_tokens; ++i) positions_.push_back(first_position + i);
  seq_idx_.insert(seq_idx_.end(), token_ids.size(), num_seqs());
  row_begin_.push_back(row_begin_.back() + num_tokens);
  slots_.push_back(slot);
  const int num_pages = (first_position + num_tokens + kPagePositions - 1) / kPagePositions;
  require(static_cast<int>(pages.size()) >= num_pages, "step: sequence in slot {} has {} pages, positions up to {} need {}", slot,
          pages.size(), first_position + num_tokens - 1, num_pages);
  pages_.push_back(pages.first(static_cast<size_t>(num_pages)));
}

int StepInput::max_position() const {
  int32_t largest = 0;
  for (int32_t position : positions_) largest = std::max(largest, position);
  return largest;
}

DeviceStep::DeviceStep(Backend& backend, int max_tokens, int max_seqs, int max_pages_per_seq)
    : backend_(backend),
      max_tokens_(max_tokens),
      max_seqs_(max_seqs),
      max_pages_per_seq_(max_pages_per_seq),
      memory_(backend, (size_t{3} * static_cast<size_t>(max_tokens) + size_t{2} * static_cast<size_t>(max_seqs) + 1 +
                        static_cast<size_t>(max_seqs) * static_cast<size_t>(max_pages_per_seq)) *
                           sizeof(int32_t)) {}

BatchView DeviceStep::upload(const StepInput& step) {
  const int num_tokens = step.num_tokens();
  const int num_seqs = step.num_seqs();
  require(num_tokens <= max_tokens_ && num_seqs <= max_seqs_, "step: {} tokens of {} sequences, at most {} of {} fit", num_tokens, num_seqs,
          max_tokens_, max_seqs_);
  size_t stride = 0;
  for (const auto& pages : step.pages_) stride = std::max(stride, pages.size());
  require(stride <= static_cast<size_t>(max_pages_per_seq_), "step: a sequence has {} pages, at most {} fit", stride, max_pages_per_seq_);

  staging_.clear();
  const int32_t* memory = memory_.as<int32_t>();
  const auto place = [&](const std::vector<int32_t>& values) {
    const int32_t* placed = memory + staging_.size();
    staging_.insert(staging_.end(), values.begin(), values.end());
    return placed;
  };
  BatchView view;
  view.num_tokens = num_tokens;
  view.num_seqs = num_seqs;
  view.token_ids = place(step.token_ids_);
  view.positions = place(step.positions_);
  view.seq_idx = place(step.seq_idx_);
  view.row_begin = place(step.row_begin_);
  view.slots = place(step.slots_);
  view.page_table = memory + staging_.size();
  view.page_table_stride = static_cast<int>(stride);
  for (const auto& pages : step.pages_) {
    staging_.insert(staging_.end(), pages.begin(), pages.end());
    staging_.resize(staging_.size() + stride - pages.size(), -1);
  }
  backend_.copy_from_host(memory_.as<void>(), staging_.data(), staging_.size() * sizeof(int32_t));
  return view;
}

}  // namespace dsv4
