#include "text/added_tokens.h"

#include <algorithm>

namespace dsv4 {

AddedTokenMatcher::AddedTokenMatcher(std::vector<std::pair<std::string, int32_t>> contents) : sorted_(std::move(contents)) {
  std::sort(sorted_.begin(), sorted_.end());
  for (const auto& [content, id] : sorted_) first_bytes_.set(static_cast<uint8_t>(content.front()));
}

std::optional<AddedTokenMatcher::Match> AddedTokenMatcher::find(std::string_view text, size_t from) const {
  for (size_t position = from; position < text.size(); ++position) {
    if (!first_bytes_.test(static_cast<uint8_t>(text[position]))) continue;
    if (const auto match = longest_at(text, position)) return match;
  }
  return std::nullopt;
}

// Narrows the sorted contents byte by byte to those that start like the text; one that ends on the way is a match.
std::optional<AddedTokenMatcher::Match> AddedTokenMatcher::longest_at(std::string_view text, size_t position) const {
  std::optional<Match> longest;
  auto low = sorted_.begin();
  auto high = sorted_.end();
  for (size_t length = 0;; ++length) {
    if (low != high && low->first.size() == length) {
      if (length > 0) longest = Match{position, length, low->second};
      ++low;
    }
    if (low == high || position + length >= text.size()) return longest;
    const auto wanted = static_cast<uint8_t>(text[position + length]);
    const auto byte_of = [length](const auto& entry) { return static_cast<uint8_t>(entry.first[length]); };
    low = std::partition_point(low, high, [&](const auto& entry) { return byte_of(entry) < wanted; });
    high = std::partition_point(low, high, [&](const auto& entry) { return byte_of(entry) == wanted; });
  }
}

}  // namespace dsv4
