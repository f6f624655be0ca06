#include "runtime/pages.h"

#include <gtest/gtest.h>

#include <set>

#include "base/error.h"

namespace dsv4 {
namespace {

TEST(PageAllocator, HandsOutEachPageOnceAndReusesTheLastReleased) {
  PageAllocator pages(3);
  std::set<int32_t> used{pages.allocate(), pages.allocate(), pages.allocate()};
  EXPECT_EQ(used, (std::set<int32_t>{0, 1, 2}));
  EXPECT_EQ(pages.num_free(), 0);
  EXPECT_THROW(pages.allocate(), Error);
  pages.release(1);
  pages.release(2);
  EXPECT_EQ(pages.num_free(), 2);
  EXPECT_EQ(pages.allocate(), 2);
  EXPECT_EQ(pages.allocate(), 1);
}

TEST(PageAllocator, PrefersUsedMemoryToUntouched) {
  PageAllocator pages(100);
  const int32_t page = pages.allocate();
  pages.release(page);
  EXPECT_EQ(pages.allocate(), page);
}

}  // namespace
}  // namespace dsv4
