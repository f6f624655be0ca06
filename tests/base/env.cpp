#include "base/env.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "base/error.h"

namespace dsv4 {
namespace {

Environment parse(const std::vector<std::string>& entries) {
  std::vector<const char*> variables;
  for (const std::string& entry : entries) variables.push_back(entry.c_str());
  variables.push_back(nullptr);
  return parse_environment(variables.data());
}

// The line of the Error that parse throws, or "" if it throws none.
std::string error_of(const std::vector<std::string>& entries) {
  try {
    parse(entries);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Env, DefaultsWithoutVariables) {
  for (const Environment& environment :
       {parse({}), parse_environment(nullptr), parse({"HOME=/root", "PATH=/bin", "=", "", "dsv4_log=bad"})}) {
    EXPECT_EQ(environment.log_level, LogLevel::kWarn);
    EXPECT_FALSE(environment.num_threads.has_value());
  }
}

TEST(Env, ReadsEveryLogLevel) {
  EXPECT_EQ(parse({"DSV4_LOG=trace"}).log_level, LogLevel::kTrace);
  EXPECT_EQ(parse({"DSV4_LOG=debug"}).log_level, LogLevel::kDebug);
  EXPECT_EQ(parse({"DSV4_LOG=info"}).log_level, LogLevel::kInfo);
  EXPECT_EQ(parse({"DSV4_LOG=warn"}).log_level, LogLevel::kWarn);
  EXPECT_EQ(parse({"DSV4_LOG=error"}).log_level, LogLevel::kError);
  EXPECT_EQ(parse({"DSV4_LOG=off"}).log_level, LogLevel::kOff);
}

TEST(Env, RejectsMalformedLogLevels) {
  for (const char* value : {"", "INFO", "warning", "3", "info ", " info", "inf"}) {
    const std::string line = error_of({std::string("DSV4_LOG=") + value});
    EXPECT_EQ(line, std::string("DSV4_LOG: \"") + value + "\", expected one of trace, debug, info, warn, error, off");
  }
}

TEST(Env, ReadsThreads) {
  EXPECT_EQ(parse({"DSV4_THREADS=1"}).num_threads, 1);
  EXPECT_EQ(parse({"A=b", "DSV4_THREADS=16", "DSV4_LOG=off"}).num_threads, 16);
  EXPECT_EQ(parse({"DSV4_THREADS=4096"}).num_threads, 4096);
}

TEST(Env, RejectsMalformedThreads) {
  for (const char* value : {"", "0", "-1", "+2", "4097", "99999999999999999999", "two", "2x", "2.0", " 2", "2 "}) {
    const std::string line = error_of({std::string("DSV4_THREADS=") + value});
    EXPECT_EQ(line, std::string("DSV4_THREADS: \"") + value + "\", expected a whole number from 1 to 4096");
  }
}

TEST(Env, RejectsUnknownNamesAndListsTheKnownOnes) {
  for (const char* name : {"DSV4_", "DSV4_LOGS", "DSV4_log", "DSV4_THREAD"}) {
    EXPECT_EQ(error_of({std::string(name) + "=1"}),
              std::string("unknown environment variable ") + name + ", expected one of DSV4_LOG, DSV4_THREADS");
  }
}

TEST(Env, ValueMayHoldAnEqualsSign) {
  EXPECT_EQ(error_of({"DSV4_LOG=a=b"}).find("DSV4_LOG: \"a=b\""), 0u);
}

TEST(Env, ChecksTheProcessAndSetsTheLogLevel) {
  ASSERT_EQ(setenv("DSV4_LOG", "error", 1), 0);
  ASSERT_EQ(setenv("DSV4_THREADS", "3", 1), 0);
  const Environment environment = check_environment();
  EXPECT_EQ(environment.log_level, LogLevel::kError);
  EXPECT_EQ(environment.num_threads, 3);
  EXPECT_TRUE(log_enabled(LogLevel::kError));
  EXPECT_FALSE(log_enabled(LogLevel::kWarn));

  ASSERT_EQ(setenv("DSV4_LOG", "loud", 1), 0);
  EXPECT_THROW(check_environment(), Error);
  EXPECT_TRUE(log_enabled(LogLevel::kError));
  EXPECT_FALSE(log_enabled(LogLevel::kWarn));

  ASSERT_EQ(unsetenv("DSV4_LOG"), 0);
  ASSERT_EQ(unsetenv("DSV4_THREADS"), 0);
  EXPECT_EQ(check_environment().log_level, LogLevel::kWarn);
}

}  // namespace
}  // namespace dsv4
