#include "runtime/device.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace dsv4 {
namespace {

TEST(Device, TheCpuIsAlwaysThere) {
  EXPECT_STREQ(make_backend(0)->name(), "cpu");
  EXPECT_STREQ(make_backend(3)->name(), "cpu");
  EXPECT_THROW(make_backend(-1), Error);
  EXPECT_THROW(make_backend(4097), Error);
}

}  // namespace
}  // namespace dsv4
