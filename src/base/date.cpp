#include "base/date.h"

#include <fmt/chrono.h>

#include <ctime>

namespace dsv4 {

std::string today() {
  return fmt::format("{:%Y-%m-%d}", fmt::gmtime(std::time(nullptr)));
}

}  // namespace dsv4
