#include "cli/load_progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <memory>

namespace dsv4 {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kGib = 1024.0 * 1024.0 * 1024.0;
constexpr double kSecondsToTellARate = 0.2;

class LoadLine {
 public:
  LoadLine() = default;
  LoadLine(const LoadLine&) = delete;
  LoadLine& operator=(const LoadLine&) = delete;
  ~LoadLine() { remove(); }

  void update(int64_t bytes_done, int64_t bytes_total) {
    if (bytes_done >= bytes_total) return remove();
    const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
    std::fprintf(stderr, "\r%s\x1b[K", load_progress_text(bytes_done, bytes_total, seconds).c_str());
    std::fflush(stderr);
    is_there_ = true;
  }

 private:
  void remove() {
    if (!is_there_) return;
    std::fputs("\r\x1b[K", stderr);
    std::fflush(stderr);
    is_there_ = false;
  }

  Clock::time_point start_ = Clock::now();
  bool is_there_ = false;
};

}  // namespace

std::string load_progress_text(int64_t bytes_done, int64_t bytes_total, double seconds) {
  const auto done = static_cast<double>(bytes_done);
  const auto total = static_cast<double>(bytes_total);
  std::string text = fmt::format("loading {:.2f} of {:.2f} GiB", done / kGib, total / kGib);
  if (bytes_done <= 0 || seconds < kSecondsToTellARate) return text;
  const double rate = done / seconds;
  return text + fmt::format(", {:.2f} GiB/s, {:.0f} s left", rate / kGib, (total - done) / rate);
}

LoadProgress make_load_progress() {
  if (isatty(STDERR_FILENO) == 0) return {};
  const auto line = std::make_shared<LoadLine>();
  return [line](int64_t bytes_done, int64_t bytes_total) { line->update(bytes_done, bytes_total); };
}

}  // namespace dsv4
