#include "runtime/stop_strings.h"

#include <algorithm>

#include "base/error.h"

namespace dsv4 {
namespace {

std::vector<size_t> borders(std::string_view text) {
  std::vector<size_t> border(text.size(), 0);
  for (size_t i = 1, length = 0; i < text.size(); ++i) {
    while (length > 0 && text[i] != text[length]) length = border[length - 1];
    if (text[i] == text[length]) ++length;
    border[i] = length;
  }
  return border;
}

}  // namespace

StopStrings::StopStrings(const std::vector<std::string>& stops) {
  require(stops.size() <= kMaxStopStrings, "{} stop strings, expected at most {}", stops.size(), kMaxStopStrings);
  for (const std::string& stop : stops) {
    require(!stop.empty(), "a stop string is empty");
    require(stop.size() <= kMaxStopStringBytes, "a stop string of {} bytes, expected at most {}", stop.size(), kMaxStopStringBytes);
    matchers_.push_back({stop, borders(stop), 0});
  }
}

std::string StopStrings::push(std::string_view piece) {
  if (stopped()) return {};
  std::string decided;
  for (const char byte : piece) {
    held_.push_back(byte);
    size_t num_undecided = 0;
    for (size_t i = 0; i < matchers_.size(); ++i) {
      Matcher& matcher = matchers_[i];
      size_t& length = matcher.num_matched;
      while (length > 0 && matcher.stop[length] != byte) length = matcher.border[length - 1];
      if (matcher.stop[length] == byte) ++length;
      if (length == matcher.stop.size() && (!stopped() || length > matched().size())) matched_idx_ = i;
      num_undecided = std::max(num_undecided, length);
    }
    // A complete stop string is never longer than what is undecided, so all of it is in held_.
    const size_t num_decided = held_.size() - (stopped() ? matched().size() : num_undecided);
    decided.append(held_, 0, num_decided);
    held_.erase(0, num_decided);
    if (stopped()) {
      held_.clear();
      break;
    }
  }
  return decided;
}

std::string StopStrings::finish() {
  std::string rest = std::move(held_);
  held_.clear();
  for (Matcher& matcher : matchers_) matcher.num_matched = 0;
  return rest;
}

}  // namespace dsv4
