// What an action complains about.
#pragma once

#include <string>

#include "base/error.h"

namespace dsv4::test {

// The line of the dsv4::Error that `action` throws, "" if it throws none. Other exceptions pass through and fail the test. A message of
// more than one line comes back marked, so that comparing it fails.
template <typename Action>
std::string error_of(Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    const std::string line = error.what();
    return line.find('\n') == std::string::npos ? line : "several lines: " + line;
  }
  return "";
}

}  // namespace dsv4::test
