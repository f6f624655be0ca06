#include "backend/cuda/runtime/launch.h"

#include <cstring>

namespace dsv4::cuda {

void LaunchCounter::add(const char* op) {
  for (int i = 0; i < num_entries_; ++i) {
    if (entries_[i].op == op || std::strcmp(entries_[i].op, op) == 0) {
      ++entries_[i].count;
      return;
    }
  }
  if (num_entries_ == kMaxOps) fail_line("launch: more than %d ops", kMaxOps);
  entries_[num_entries_++] = {op, 1};
}

void LaunchCounter::clear() {
  num_entries_ = 0;
}

int64_t LaunchCounter::total() const {
  int64_t sum = 0;
  for (const Entry& entry : *this) sum += entry.count;
  return sum;
}

}  // namespace dsv4::cuda
