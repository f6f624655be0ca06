#include "base/date.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <ctime>

namespace dsv4 {
namespace {

TEST(Date, TodayIsACalendarDayOfUtc) {
  const std::time_t before = std::time(nullptr);
  const std::string text = today();
  const std::time_t after = std::time(nullptr);
  ASSERT_EQ(text.size(), 10u) << text;
  std::tm day{};
  ASSERT_EQ(std::sscanf(text.c_str(), "%4d-%2d-%2d", &day.tm_year, &day.tm_mon, &day.tm_mday), 3) << text;
  day.tm_year -= 1900;
  day.tm_mon -= 1;
  const std::time_t begin = timegm(&day);  // 0:00 of that day
  EXPECT_LE(begin, after);
  EXPECT_GT(begin + 24 * 60 * 60, before);
}

}  // namespace
}  // namespace dsv4
