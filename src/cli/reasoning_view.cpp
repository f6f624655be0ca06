#include "cli/reasoning_view.h"

#include <algorithm>

#include "text/protocol.h"

namespace dsv4 {
namespace {

constexpr std::string_view kDim = "\x1b[2m";
constexpr std::string_view kNormal = "\x1b[0m";

// Length of the longest end of `text` that "</think>" begins with.
size_t undecided_bytes(std::string_view text) {
  for (size_t length = std::min(text.size(), protocol::kEndThink.size() - 1); length > 0; --length) {
    if (text.ends_with(protocol::kEndThink.substr(0, length))) return length;
  }
  return 0;
}

}  // namespace

std::string ReasoningView::push(std::string_view piece) {
  if (!in_reasoning_) return std::string(piece);
  held_ += piece;
  std::string shown;
  if (!is_dim_) shown += kDim;
  is_dim_ = true;
  const size_t end = held_.find(protocol::kEndThink);
  if (end == std::string::npos) {
    const size_t num_decided = held_.size() - undecided_bytes(held_);
    shown.append(held_, 0, num_decided);
    held_.erase(0, num_decided);
    return shown;
  }
  shown.append(held_, 0, end);
  shown.append(kNormal).append("\n");
  shown.append(held_, end + protocol::kEndThink.size());
  held_.clear();
  in_reasoning_ = false;
  return shown;
}

std::string ReasoningView::finish() {
  std::string shown = std::move(held_);
  held_.clear();
  if (in_reasoning_ && is_dim_) shown += kNormal;
  in_reasoning_ = false;
  return shown;
}

}  // namespace dsv4
