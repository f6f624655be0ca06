#include "cli/process_stats.h"

#include <time.h>
#include <unistd.h>

#include <fstream>
#include <iterator>
#include <sstream>
#include <string>

#include "base/error.h"

namespace dsv4 {

double seconds_since_process_start() {
  // proc(5): field 22 of the line is the start time in clock ticks since boot; field 2, the name, ends with the last ')'.
  std::ifstream file("/proc/self/stat");
  const std::string line{std::istreambuf_iterator<char>(file), {}};
  const size_t name_end = line.rfind(')');
  require(name_end != std::string::npos, "/proc/self/stat: cannot be read");
  std::istringstream fields(line.substr(name_end + 1));
  std::string skipped;
  for (int field = 3; field < 22; ++field) fields >> skipped;
  double start_ticks = 0.0;
  require(static_cast<bool>(fields >> start_ticks), "/proc/self/stat: no start time");
  timespec now = {};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec) -
         start_ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
}

int64_t peak_resident_bytes() {
  // Not getrusage(): its figure survives exec() and may be that of the program that started this one.
  std::ifstream file("/proc/self/status");
  for (std::string name; file >> name;) {
    int64_t kib = 0;
    if (name == "VmHWM:" && file >> kib) return kib * 1024;
  }
  fail("/proc/self/status: no VmHWM");
}

}  // namespace dsv4
