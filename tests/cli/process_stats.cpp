#include "cli/process_stats.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>

namespace dsv4 {
namespace {

TEST(ProcessStats, TimeGoesOn) {
  const double before = seconds_since_process_start();
  EXPECT_GE(before, -0.011);  // the system counts in ticks of 10 ms
  EXPECT_LT(before, 3600.0);
  EXPECT_GE(seconds_since_process_start(), before);
}

TEST(ProcessStats, PeakMemoryGrowsWithWhatIsTouched) {
  const int64_t before = peak_resident_bytes();
  EXPECT_GT(before, 0);
  constexpr size_t kBytes = size_t{64} << 20;
  void* memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  std::memset(memory, 1, kBytes);
  EXPECT_GE(peak_resident_bytes(), before + static_cast<int64_t>(kBytes) / 2);
  munmap(memory, kBytes);
}

}  // namespace
}  // namespace dsv4
