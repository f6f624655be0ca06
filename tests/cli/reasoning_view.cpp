#include "cli/reasoning_view.h"

#include <gtest/gtest.h>

namespace dsv4 {
namespace {

std::string shown(const std::string& text, size_t piece_bytes, bool has_reasoning, bool is_terminal) {
  ReasoningView view(has_reasoning, is_terminal);
  std::string out;
  for (size_t begin = 0; begin < text.size(); begin += piece_bytes) out += view.push(std::string_view(text).substr(begin, piece_bytes));
  return out + view.finish();
}

TEST(ReasoningView, DimsReasoningHoweverItIsCut) {
  for (size_t piece_bytes = 1; piece_bytes <= 32; ++piece_bytes) {
    EXPECT_EQ(shown("why </thin not</think>so </think>", piece_bytes, true, true), "\x1b[2mwhy </thin not\x1b[0m\nso </think>")
        << piece_bytes;
  }
}

TEST(ReasoningView, EndsTheDimmingOfReasoningThatBreaksOff) {
  EXPECT_EQ(shown("why </th", 3, true, true), "\x1b[2mwhy </th\x1b[0m");
  EXPECT_EQ(shown("", 1, true, true), "");
}

TEST(ReasoningView, PassesEverythingElseThrough) {
  EXPECT_EQ(shown("a</think>b", 2, false, true), "a</think>b");
  EXPECT_EQ(shown("a</think>b", 2, true, false), "a</think>b");
}

}  // namespace
}  // namespace dsv4
