// Text with a note on who wrote it.
#pragma once

#include <string>

namespace dsv4 {

// A stretch of a prompt. In trusted text (the encoder's own literals) "<｜User｜>" is the control token; in any other text the same
// characters are just characters, so that a user cannot forge turns.
struct TextSegment {
  std::string text;
  bool trusted;
};

}  // namespace dsv4
