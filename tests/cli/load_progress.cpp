#include "cli/load_progress.h"

#include <gtest/gtest.h>

namespace dsv4 {
namespace {

constexpr int64_t kGib = int64_t{1} << 30;

TEST(LoadProgress, TellsBytesRateAndTimeLeft) {
  EXPECT_EQ(load_progress_text(12 * kGib, 100 * kGib, 3.0), "loading 12.00 of 100.00 GiB, 4.00 GiB/s, 22 s left");
}

TEST(LoadProgress, LeavesOutWhatIsNotKnown) {
  EXPECT_EQ(load_progress_text(0, 3 * kGib / 2, 5.0), "loading 0.00 of 1.50 GiB");
  EXPECT_EQ(load_progress_text(kGib, 2 * kGib, 0.0), "loading 1.00 of 2.00 GiB");
}

}  // namespace
}  // namespace dsv4
