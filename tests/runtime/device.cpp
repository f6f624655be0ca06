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

TEST(Device, TheCpuComesFirstInTheList) {
  const std::vector<std::string> lines = describe_devices();
  ASSERT_FALSE(lines.empty());
  EXPECT_EQ(lines[0].rfind("cpu: ", 0), 0u);
  for (size_t i = 1; i < lines.size(); ++i) EXPECT_EQ(lines[i].rfind("cuda:" + std::to_string(i - 1) + ": ", 0), 0u) << lines[i];
}

}  // namespace
}  // namespace dsv4
