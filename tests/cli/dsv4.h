// Runs the dsv4 binary, for the tests of its commands.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/process.h"

namespace dsv4::test {

inline const std::string kBinary = DSV4_BIN_DIR "/dsv4";
inline const std::string kTinyModel = DSV4_SOURCE_DIR "/models/tiny";
inline const std::string kMiniModel = DSV4_SOURCE_DIR "/tests/data/mini";

// The binary with these arguments, on one thread; `options.args` and `options.input` are set here.
inline ProcessResult run_dsv4(std::vector<std::string> args, const std::string& input = {}, ProcessOptions options = {}) {
  args.insert(args.begin(), kBinary);
  options.args = std::move(args);
  options.input = input;
  options.environment.push_back("DSV4_THREADS=1");
  return run_process(options);
}

// Expects exit status 0; returns standard output.
inline std::string dsv4_output(const std::vector<std::string>& args, const std::string& input = {}) {
  const ProcessResult result = run_dsv4(args, input);
  EXPECT_EQ(result.exit_status, 0) << result.err;
  return result.out;
}

inline nlohmann::ordered_json dsv4_json(const std::vector<std::string>& args, const std::string& input = {}) {
  return nlohmann::ordered_json::parse(dsv4_output(args, input));
}

// Expects exactly one line on standard error, "dsv4: error: …" with `part` in it, nothing on standard output, and the exit status.
inline void expect_error(const ProcessResult& result, int exit_status, const std::string& part) {
  EXPECT_EQ(result.exit_status, exit_status);
  EXPECT_EQ(result.out, "");
  EXPECT_TRUE(result.err.starts_with("dsv4: error: ")) << result.err;
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  EXPECT_TRUE(result.err.ends_with("\n")) << result.err;
  EXPECT_NE(result.err.find(part), std::string::npos) << result.err;
}

// A command line that is not understood.
inline void expect_usage_error(const std::vector<std::string>& args, const std::string& part) {
  expect_error(run_dsv4(args), 2, part);
}

// Any other failure.
inline void expect_failure(const std::vector<std::string>& args, const std::string& part, const std::string& input = {}) {
  expect_error(run_dsv4(args, input), 1, part);
}

inline std::vector<std::string> lines(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

}  // namespace dsv4::test
