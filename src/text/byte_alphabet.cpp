#include "text/byte_alphabet.h"

#include <array>
#include <cstdint>

#include "text/utf8.h"

namespace dsv4 {
namespace {

constexpr bool stands_for_itself(int byte) {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
}

constexpr int kNumCodePoints = 0x100 + 68;

// The byte of each code point, -1 where there is none.
constexpr std::array<int16_t, kNumCodePoints> make_alphabet() {
  std::array<int16_t, kNumCodePoints> byte_of{};
  for (int16_t& byte : byte_of) byte = -1;
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) byte_of[static_cast<size_t>(stands_for_itself(byte) ? byte : next++)] = static_cast<int16_t>(byte);
  return byte_of;
}

constexpr std::array<int16_t, kNumCodePoints> kByteOf = make_alphabet();

}  // namespace

std::optional<std::string> bytes_of_alphabet(std::string_view spelling) {
  std::string bytes;
  for (size_t i = 0; i < spelling.size();) {
    const size_t length = utf8_step(spelling, i).length;
    // The alphabet ends at U+0143: one or two bytes of UTF-8.
    if (length > 2) return std::nullopt;
    const auto lead = static_cast<uint8_t>(spelling[i]);
    const size_t code_point = length == 1 ? lead : ((lead & 0x1fu) << 6) | (static_cast<uint8_t>(spelling[i + 1]) & 0x3fu);
    if (code_point >= kByteOf.size() || kByteOf[code_point] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(kByteOf[code_point]));
    i += length;
  }
  return bytes;
}

}  // namespace dsv4
