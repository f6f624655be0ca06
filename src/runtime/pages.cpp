#include "runtime/pages.h"

#include "base/error.h"

namespace dsv4 {

int32_t PageAllocator::allocate() {
  require(num_used_ < num_pages_, "KV cache: all {} pages are in use", num_pages_);
  ++num_used_;
  if (released_.empty()) return num_touched_++;
  const int32_t page = released_.back();
  released_.pop_back();
  return page;
}

void PageAllocator::release(int32_t page) {
  released_.push_back(page);
  --num_used_;
}

}  // namespace dsv4
