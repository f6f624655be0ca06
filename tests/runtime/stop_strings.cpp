#include "runtime/stop_strings.h"

#include <gtest/gtest.h>

#include <random>

#include "base/error.h"

namespace dsv4 {
namespace {

struct Outcome {
  std::string text;
  bool stopped = false;
  std::string matched;
};

Outcome feed(const std::vector<std::string>& stops, const std::vector<std::string>& pieces) {
  StopStrings matcher(stops);
  Outcome outcome;
  for (const std::string& piece : pieces) outcome.text += matcher.push(piece);
  outcome.stopped = matcher.stopped();
  if (outcome.stopped) outcome.matched = matcher.matched();
  outcome.text += matcher.finish();
  return outcome;
}

// The rule itself: the shortest prefix of the text that ends with a stop string, the longest of those, cut off.
Outcome expected(const std::vector<std::string>& stops, const std::string& text) {
  for (size_t end = 1; end <= text.size(); ++end) {
    const std::string prefix = text.substr(0, end);
    const std::string* longest = nullptr;
    for (const std::string& stop : stops) {
      if (prefix.ends_with(stop) && (longest == nullptr || stop.size() > longest->size())) longest = &stop;
    }
    if (longest != nullptr) return {prefix.substr(0, end - longest->size()), true, *longest};
  }
  return {text, false, ""};
}

TEST(StopStrings, PassesTextThroughWithoutStops) {
  StopStrings matcher({});
  EXPECT_EQ(matcher.push("any"), "any");
  EXPECT_EQ(matcher.push(""), "");
  EXPECT_EQ(matcher.push("thing"), "thing");
  EXPECT_EQ(matcher.finish(), "");
  EXPECT_FALSE(matcher.stopped());
}

TEST(StopStrings, HoldsBackWhatMayBeginAStop) {
  StopStrings matcher({"STOP"});
  EXPECT_EQ(matcher.push("abcST"), "abc");
  EXPECT_EQ(matcher.push("O"), "");
  EXPECT_EQ(matcher.push("RST"), "STOR");
  EXPECT_FALSE(matcher.stopped());
  EXPECT_EQ(matcher.finish(), "ST");
  EXPECT_EQ(matcher.finish(), "");
}

TEST(StopStrings, CutsTheStopAndWhatFollows) {
  StopStrings matcher({"STOP"});
  EXPECT_EQ(matcher.push("abST"), "ab");
  EXPECT_EQ(matcher.push("OPcd"), "");
  EXPECT_TRUE(matcher.stopped());
  EXPECT_EQ(matcher.matched(), "STOP");
  EXPECT_EQ(matcher.push("more"), "");
  EXPECT_EQ(matcher.finish(), "");
}

TEST(StopStrings, FindsAStopBehindItsOwnBeginning) {
  EXPECT_EQ(feed({"aab"}, {"aaaaab", "x"}).text, "aaa");
  EXPECT_EQ(feed({"abac"}, {"ababac"}).text, "ab");
}

TEST(StopStrings, TheFirstCompleteStopWinsAndOfTwoTheLonger) {
  EXPECT_EQ(feed({"abcd", "bc"}, {"xabcd"}).text, "xa");
  const Outcome both = feed({"c", "bc"}, {"xabc"});
  EXPECT_EQ(both.text, "xa");
  EXPECT_EQ(both.matched, "bc");
}

TEST(StopStrings, ReleasesWholeCharactersOnly) {
  // "é" is c3 a9, "è" is c3 a8: they share their first byte.
  StopStrings matcher({"é!"});
  EXPECT_EQ(matcher.push("aè"), "aè");
  EXPECT_EQ(matcher.push("é"), "");
  EXPECT_EQ(matcher.push("è"), "éè");
  EXPECT_EQ(matcher.push("é!"), "");
  EXPECT_TRUE(matcher.stopped());
}

TEST(StopStrings, CuttingTheTextDifferentlyChangesNothing) {
  std::mt19937 random(7);
  const auto letters = [&](size_t count) {
    std::string text;
    for (size_t i = 0; i < count; ++i) text.push_back(static_cast<char>('a' + random() % 2));
    return text;
  };
  int num_stopped = 0;
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::string> stops;
    for (uint32_t i = 0, count = random() % 4; i < count; ++i) stops.push_back(letters(1 + random() % 7));
    const std::string text = letters(random() % 24);
    std::vector<std::string> pieces;
    for (size_t begin = 0; begin < text.size();) {
      const size_t length = 1 + random() % 4;
      pieces.push_back(text.substr(begin, length));
      begin += length;
    }
    const Outcome want = expected(stops, text);
    const Outcome got = feed(stops, pieces);
    ASSERT_EQ(got.text, want.text) << text;
    ASSERT_EQ(got.stopped, want.stopped) << text;
    ASSERT_EQ(got.matched, want.matched) << text;
    num_stopped += want.stopped ? 1 : 0;
  }
  EXPECT_GT(num_stopped, 500);
  EXPECT_LT(num_stopped, 2500);
}

TEST(StopStrings, RefusesWhatCannotBeAStop) {
  EXPECT_THROW(StopStrings({""}), Error);
  EXPECT_THROW(StopStrings({std::string(kMaxStopStringBytes + 1, 'a')}), Error);
  EXPECT_NO_THROW(StopStrings({std::string(kMaxStopStringBytes, 'a')}));
  EXPECT_THROW(StopStrings(std::vector<std::string>(kMaxStopStrings + 1, "a")), Error);
}

}  // namespace
}  // namespace dsv4
