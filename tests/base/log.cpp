#include "base/log.h"

#include <gtest/gtest.h>

#include <string>

namespace {

// An argument that counts how often it is formatted.
struct Counted {
  int* formatted;
};

}  // namespace

template <>
struct fmt::formatter<Counted> : fmt::formatter<const char*> {
  template <typename FormatContext>
  auto format(const Counted& counted, FormatContext& context) const {
    ++*counted.formatted;
    return fmt::format_to(context.out(), "counted");
  }
};

namespace dsv4 {
namespace {

constexpr LogLevel kWritten[] = {LogLevel::kTrace, LogLevel::kDebug, LogLevel::kInfo, LogLevel::kWarn, LogLevel::kError};

// Each test leaves the process-wide level as it found it.
class Log : public testing::Test {
 protected:
  void TearDown() override { set_log_level(kDefaultLogLevel); }
};

TEST_F(Log, NamesRoundTrip) {
  for (const LogLevel level : kWritten) EXPECT_EQ(parse_log_level(log_level_name(level)), level);
  EXPECT_EQ(parse_log_level("off"), LogLevel::kOff);
  for (const char* name : {"", "Off", "fatal", "warning", "warn "}) EXPECT_FALSE(parse_log_level(name).has_value()) << name;
}

TEST_F(Log, StartsAtWarn) {
  EXPECT_FALSE(log_enabled(LogLevel::kInfo));
  EXPECT_TRUE(log_enabled(LogLevel::kWarn));
}

TEST_F(Log, LevelsAreOrdered) {
  for (const LogLevel limit : kWritten) {
    set_log_level(limit);
    for (const LogLevel level : kWritten)
      EXPECT_EQ(log_enabled(level), level >= limit) << log_level_name(limit) << " " << log_level_name(level);
    EXPECT_FALSE(log_enabled(LogLevel::kOff));
  }
  set_log_level(LogLevel::kOff);
  for (const LogLevel level : kWritten) EXPECT_FALSE(log_enabled(level));
}

TEST_F(Log, WritesToStderrAlone) {
  set_log_level(LogLevel::kInfo);
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  log_debug("hidden {}", 1);
  log_info("loaded {} tensors from {}", 3, "model");
  log_error("{{braces}} and {}", "100%");
  const std::string err = testing::internal::GetCapturedStderr();
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "");
  EXPECT_EQ(err.find("hidden"), std::string::npos);
  EXPECT_NE(err.find("info loaded 3 tensors from model\n"), std::string::npos) << err;
  EXPECT_NE(err.find("{braces} and 100%\n"), std::string::npos) << err;
}

TEST_F(Log, LineIsWrittenAsItIs) {
  testing::internal::CaptureStderr();
  log_line(LogLevel::kWarn, "{} %v {not a format");
  log_line(LogLevel::kOff, "never");
  const std::string err = testing::internal::GetCapturedStderr();
  EXPECT_NE(err.find("{} %v {not a format\n"), std::string::npos) << err;
  EXPECT_EQ(err.find("never"), std::string::npos);
}

TEST_F(Log, DisabledLinesAreNotFormatted) {
  int formatted = 0;
  testing::internal::CaptureStderr();
  log_info("{}", Counted{&formatted});
  EXPECT_EQ(formatted, 0);
  log_warn("{}", Counted{&formatted});
  EXPECT_EQ(formatted, 1);
  EXPECT_NE(testing::internal::GetCapturedStderr().find("warning counted\n"), std::string::npos);
}

}  // namespace
}  // namespace dsv4
