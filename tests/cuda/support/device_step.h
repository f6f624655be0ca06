// A test::Step in device memory, with padding rows if wanted.
#pragma once

#include "cuda/support/gpu.h"
#include "support/step.h"

namespace dsv4::test {

// Adds `count` padding rows to a step: a sequence of its own without slot or pages, at position −1.
inline Step with_padding(Step step, int count) {
  const auto seq_idx = static_cast<int32_t>(step.slots.size());
  for (int i = 0; i < count; ++i) {
    step.token_ids.push_back(0);
    step.positions.push_back(-1);
    step.seq_idx.push_back(seq_idx);
  }
  step.row_begin.push_back(static_cast<int32_t>(step.positions.size()));
  step.slots.push_back(-1);
  step.page_table.insert(step.page_table.end(), static_cast<size_t>(step.pages_per_slot), -1);
  return step;
}

class DeviceStep {
 public:
  DeviceStep(Backend& backend, const Step& step)
      : token_ids_(backend, step.token_ids),
        positions_(backend, step.positions),
        seq_idx_(backend, step.seq_idx),
        row_begin_(backend, step.row_begin),
        slots_(backend, step.slots),
        page_table_(backend, step.page_table),
        view_(step.view()) {
    view_.token_ids = token_ids_.data();
    view_.positions = positions_.data();
    view_.seq_idx = seq_idx_.data();
    view_.row_begin = row_begin_.data();
    view_.slots = slots_.data();
    view_.page_table = page_table_.data();
  }
  const BatchView& view() const { return view_; }

 private:
  DeviceArray<int32_t> token_ids_, positions_, seq_idx_, row_begin_, slots_, page_table_;
  BatchView view_;
};

}  // namespace dsv4::test
