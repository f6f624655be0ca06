// Finding added tokens ("<｜User｜>", "<think>", …) in raw text.
#pragma once

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dsv4 {

// One entry of added_tokens in tokenizer.json.
struct AddedToken {
  std::string content;
  int32_t id;
  bool normalized;  // matched after the tokens that are not, in what those leave over
  bool special;     // control token; the library skips these when it decodes for people
};

// Finds the leftmost, of those the longest, of a set of strings.
class AddedTokenMatcher {
 public:
  struct Match {
    size_t position;
    size_t length;
    int32_t id;
  };

  // Contents must be unique and not empty.
  explicit AddedTokenMatcher(std::vector<std::pair<std::string, int32_t>> contents);

  // The first match at or after `from`.
  std::optional<Match> find(std::string_view text, size_t from) const;

 private:
  std::optional<Match> longest_at(std::string_view text, size_t position) const;

  std::vector<std::pair<std::string, int32_t>> sorted_;
  std::bitset<256> first_bytes_;
};

}  // namespace dsv4
