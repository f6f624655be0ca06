#include "base/env.h"

#include <unistd.h>

#include <charconv>
#include <string>
#include <string_view>

#include "base/error.h"

namespace dsv4 {
namespace {

constexpr std::string_view kPrefix = "DSV4_";

void parse_log(std::string_view value, Environment& environment) {
  const std::optional<LogLevel> level = parse_log_level(value);
  require(level.has_value(), "DSV4_LOG: \"{}\", expected one of trace, debug, info, warn, error, off", value);
  environment.log_level = *level;
}

void parse_threads(std::string_view value, Environment& environment) {
  int num_threads = 0;
  const char* const end = value.data() + value.size();
  const std::from_chars_result result = std::from_chars(value.data(), end, num_threads);
  require(result.ec == std::errc() && result.ptr == end && num_threads >= 1 && num_threads <= kMaxThreads,
          "DSV4_THREADS: \"{}\", expected a whole number from 1 to {}", value, kMaxThreads);
  environment.num_threads = num_threads;
}

struct Variable {
  std::string_view name;
  void (*parse)(std::string_view value, Environment& environment);
};
constexpr Variable kVariables[] = {{"DSV4_LOG", parse_log}, {"DSV4_THREADS", parse_threads}};

void parse_variable(std::string_view name, std::string_view value, Environment& environment) {
  std::string known;
  for (const Variable& variable : kVariables) {
    if (variable.name == name) return variable.parse(value, environment);
    known.append(known.empty() ? "" : ", ").append(variable.name);
  }
  fail("unknown environment variable {}, expected one of {}", name, known);
}

}  // namespace

Environment parse_environment(const char* const* variables) {
  Environment environment;
  for (; variables != nullptr && *variables != nullptr; ++variables) {
    const std::string_view entry = *variables;
    if (!entry.starts_with(kPrefix)) continue;
    const size_t equals = entry.find('=');
    if (equals == std::string_view::npos) continue;  // not a variable: execve passes any string on
    parse_variable(entry.substr(0, equals), entry.substr(equals + 1), environment);
  }
  return environment;
}

Environment check_environment() {
  const Environment environment = parse_environment(environ);
  set_log_level(environment.log_level);
  return environment;
}

}  // namespace dsv4
