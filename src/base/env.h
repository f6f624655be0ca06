// The registry of the DSV4_* environment variables. Nothing else in the project reads the environment.
//
//   DSV4_LOG      trace | debug | info | warn | error | off   level of the log lines on stderr; default warn
//   DSV4_THREADS  1 … kMaxThreads                             threads of the CPU ops; default: one per core
#pragma once

#include <optional>

#include "base/log.h"

namespace dsv4 {

inline constexpr int kMaxThreads = 4096;

struct Environment {
  LogLevel log_level = kDefaultLogLevel;
  std::optional<int> num_threads;  // nothing where DSV4_THREADS is not set
};

// Reads the DSV4_* variables of a null-terminated list of "NAME=value" strings (nullptr = empty list); other names are not looked at.
// Throws Error for an unknown DSV4_* name, listing the known ones, and for a malformed value, saying what was expected.
Environment parse_environment(const char* const* variables);

// parse_environment of this process's environment, then sets the log level. main() calls it first and hands num_threads to the backend.
Environment check_environment();

}  // namespace dsv4
