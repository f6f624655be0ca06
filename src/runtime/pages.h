// Which physical pages of the KV cache are free.
#pragma once

#include <cstdint>
#include <vector>

namespace dsv4 {

// Hands out page ids 0 … num_pages − 1. A page given back is the next one handed out, so that memory committed once is used again before
// new memory is touched.
class PageAllocator {
 public:
  explicit PageAllocator(int num_pages) : num_pages_(num_pages) {}

  // Throws Error when no page is free.
  int32_t allocate();
  void release(int32_t page);

  int num_free() const { return num_pages_ - num_used_; }
  int num_pages() const { return num_pages_; }

 private:
  int num_pages_;
  int num_used_ = 0;
  int32_t num_touched_ = 0;  // pages that were ever handed out
  std::vector<int32_t> released_;
};

}  // namespace dsv4
