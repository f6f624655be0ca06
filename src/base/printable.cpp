#include "base/printable.h"

#include <fmt/format.h>

namespace dsv4 {

std::string printable(std::string_view text, size_t max_length) {
  std::string line;
  for (const char c : text) {
    if (line.size() >= max_length) return line + "…";
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f) {
      line += c;
    } else {
      line += fmt::format("\\x{:02x}", byte);
    }
  }
  return line;
}

}  // namespace dsv4
