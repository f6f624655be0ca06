#include "text/utf8.h"

#include <algorithm>

namespace dsv4 {
namespace {

// What may follow a lead byte: the number of continuation bytes and the range of the first of them (Unicode standard, table 3-7).
struct Lead {
  size_t num_continuations;
  uint8_t first_low = 0x80;
  uint8_t first_high = 0xbf;
};

// num_continuations is 0 for a byte that starts no multi-byte character.
Lead classify_lead(uint8_t byte) {
  if (byte >= 0xc2 && byte <= 0xdf) return {1};
  if (byte == 0xe0) return {2, 0xa0, 0xbf};
  if (byte == 0xed) return {2, 0x80, 0x9f};
  if (byte >= 0xe1 && byte <= 0xef) return {2};
  if (byte == 0xf0) return {3, 0x90, 0xbf};
  if (byte >= 0xf1 && byte <= 0xf3) return {3};
  if (byte == 0xf4) return {3, 0x80, 0x8f};
  return {0};
}

}  // namespace

Utf8Step utf8_step(std::string_view bytes, size_t position) {
  const auto at = [&](size_t i) { return static_cast<uint8_t>(bytes[i]); };
  if (at(position) < 0x80) return {Utf8Step::Kind::kValid, 1};
  const Lead lead = classify_lead(at(position));
  if (lead.num_continuations == 0) return {Utf8Step::Kind::kInvalid, 1};
  for (size_t i = 1; i <= lead.num_continuations; ++i) {
    if (position + i >= bytes.size()) return {Utf8Step::Kind::kIncomplete, i};
    const uint8_t low = i == 1 ? lead.first_low : 0x80;
    const uint8_t high = i == 1 ? lead.first_high : 0xbf;
    if (at(position + i) < low || at(position + i) > high) return {Utf8Step::Kind::kInvalid, i};
  }
  return {Utf8Step::Kind::kValid, lead.num_continuations + 1};
}

size_t utf8_valid_prefix(std::string_view bytes) {
  size_t position = 0;
  while (position < bytes.size()) {
    const Utf8Step step = utf8_step(bytes, position);
    if (step.kind != Utf8Step::Kind::kValid) break;
    position += step.length;
  }
  return position;
}

size_t utf8_complete_prefix(std::string_view bytes) {
  // The lead of a cut-off character is among the last three bytes.
  for (size_t back = 1; back <= std::min<size_t>(3, bytes.size()); ++back) {
    const size_t position = bytes.size() - back;
    if ((static_cast<uint8_t>(bytes[position]) & 0xc0) == 0x80) continue;
    return utf8_step(bytes, position).kind == Utf8Step::Kind::kIncomplete ? position : bytes.size();
  }
  return bytes.size();
}

void append_utf8(std::string& out, uint32_t code_point) {
  const auto put = [&](uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xc0 | (code_point >> 6));
    put(0x80 | (code_point & 0x3f));
  } else if (code_point < 0x10000) {
    put(0xe0 | (code_point >> 12));
    put(0x80 | ((code_point >> 6) & 0x3f));
    put(0x80 | (code_point & 0x3f));
  } else {
    put(0xf0 | (code_point >> 18));
    put(0x80 | ((code_point >> 12) & 0x3f));
    put(0x80 | ((code_point >> 6) & 0x3f));
    put(0x80 | (code_point & 0x3f));
  }
}

std::string Utf8Stream::push(std::string_view bytes) {
  tail_.append(bytes);
  std::string out;
  size_t position = 0;
  while (position < tail_.size()) {
    const Utf8Step step = utf8_step(tail_, position);
    if (step.kind == Utf8Step::Kind::kIncomplete) break;
    if (step.kind == Utf8Step::Kind::kValid) {
      out.append(tail_, position, step.length);
    } else {
      out.append(kReplacementCharacter);
    }
    position += step.length;
  }
  tail_.erase(0, position);
  return out;
}

std::string Utf8Stream::flush() {
  std::string out(tail_.empty() ? std::string_view() : kReplacementCharacter);
  tail_.clear();
  return out;
}

}  // namespace dsv4
