// How an answer with reasoning looks to its reader while it arrives.
#pragma once

#include <string>
#include <string_view>

namespace dsv4 {

// On a terminal the reasoning is dimmed and a line end stands for "</think>"; elsewhere the text passes through unchanged.
class ReasoningView {
 public:
  ReasoningView(bool has_reasoning, bool is_terminal) : in_reasoning_(has_reasoning && is_terminal) {}

  // Takes the next piece, returns what to show: a piece that may be part of "</think>" is held back.
  std::string push(std::string_view piece);
  // The answer has ended: returns the rest.
  std::string finish();

 private:
  bool in_reasoning_;
  bool is_dim_ = false;
  std::string held_;
};

}  // namespace dsv4
