// Log lines on stderr: one line per event, filtered by level. spdlog stays behind this header; it has its own logger, so a program that
// embeds the library keeps its own spdlog settings. Not for .cu files (it brings fmt in).
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>

namespace dsv4 {

enum class LogLevel : uint8_t { kTrace, kDebug, kInfo, kWarn, kError, kOff };

inline constexpr LogLevel kDefaultLogLevel = LogLevel::kWarn;

// "trace", "debug", "info", "warn", "error" or "off".
const char* log_level_name(LogLevel level);

// The level of that exact name, or nothing.
std::optional<LogLevel> parse_log_level(std::string_view name);

// Lines below `level` are dropped from now on (process-wide; kOff drops all). Thread-safe. Starts as kDefaultLogLevel.
void set_log_level(LogLevel level);

// Whether a line of this level would be written; false for kOff.
bool log_enabled(LogLevel level);

// Writes one line, whatever characters it holds; prefer the functions below.
void log_line(LogLevel level, std::string_view line);

// Formats only where the level is enabled.
template <typename... Args>
void log_at(LogLevel level, fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(level)) log_line(level, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void log_debug(fmt::format_string<Args...> format, Args&&... args) {
  log_at(LogLevel::kDebug, format, std::forward<Args>(args)...);
}
template <typename... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  log_at(LogLevel::kInfo, format, std::forward<Args>(args)...);
}
template <typename... Args>
void log_warn(fmt::format_string<Args...> format, Args&&... args) {
  log_at(LogLevel::kWarn, format, std::forward<Args>(args)...);
}
template <typename... Args>
void log_error(fmt::format_string<Args...> format, Args&&... args) {
  log_at(LogLevel::kError, format, std::forward<Args>(args)...);
}

}  // namespace dsv4
