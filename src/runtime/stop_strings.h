// Finds stop strings in text that arrives in pieces.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace dsv4 {

inline constexpr size_t kMaxStopStrings = 64;
inline constexpr size_t kMaxStopStringBytes = 4096;

// The text passes through; the first stop string that is complete ends it and is cut off with everything after it (of two that are complete
// at the same byte, the longer one counts). Text that may be the beginning of a stop string is held back until that is decided. How the
// text is cut into pieces makes no difference. Where text and stop strings are UTF-8 and pieces are whole characters, so is what comes out.
class StopStrings {
 public:
  // Throws Error for an empty string, one longer than kMaxStopStringBytes, or more than kMaxStopStrings.
  explicit StopStrings(const std::vector<std::string>& stops);

  // Takes the next piece, returns the text that is decided. Nothing follows once stopped() is true.
  std::string push(std::string_view piece);
  // The text has ended: returns what was held back.
  std::string finish();

  bool stopped() const { return matched_idx_.has_value(); }
  // The stop string that was found; only once stopped() is true.
  const std::string& matched() const { return matchers_.at(matched_idx_.value()).stop; }

 private:
  // Knuth-Morris-Pratt matcher of one stop string.
  struct Matcher {
    std::string stop;
    std::vector<size_t> border;  // [i]: length of the longest proper prefix of stop[0, i] (inclusive) that is also its suffix
    size_t num_matched = 0;      // length of the longest prefix of `stop` that the text ends with
  };

  std::vector<Matcher> matchers_;
  std::string held_;
  std::optional<size_t> matched_idx_;
};

}  // namespace dsv4
