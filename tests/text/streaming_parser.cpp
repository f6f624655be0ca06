#include "text/streaming_parser.h"

#include <gtest/gtest.h>

#include <optional>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "text/json.h"
#include "text/utf8.h"

namespace dsv4 {
namespace {

using Kind = StreamEvent::Kind;

constexpr std::string_view kEos = "<｜end▁of▁sentence｜>";

// Feeds pieces cut at `cuts` and returns all events.
std::vector<StreamEvent> stream(std::string_view text, ThinkingMode mode, const std::vector<size_t>& cuts) {
  StreamingParser parser(mode);
  std::vector<StreamEvent> events;
  const auto add = [&](std::vector<StreamEvent> more) { events.insert(events.end(), more.begin(), more.end()); };
  size_t position = 0;
  for (const size_t cut : cuts) {
    add(parser.push(text.substr(position, cut - position)));
    position = cut;
  }
  add(parser.push(text.substr(position)));
  add(parser.finish());
  return events;
}

std::vector<size_t> every_byte(std::string_view text) {
  std::vector<size_t> cuts;
  for (size_t i = 1; i < text.size(); ++i) cuts.push_back(i);
  return cuts;
}

Completion add_up(const std::vector<StreamEvent>& events) {
  Completion completion;
  for (const StreamEvent& event : events) append_event(completion, event);
  return completion;
}

void expect_equal(const Completion& got, const Completion& wanted, std::string_view text) {
  EXPECT_EQ(got.reasoning_content, wanted.reasoning_content) << text;
  EXPECT_EQ(got.content, wanted.content) << text;
  ASSERT_EQ(got.tool_calls.size(), wanted.tool_calls.size()) << text;
  for (size_t i = 0; i < got.tool_calls.size(); ++i) {
    EXPECT_EQ(got.tool_calls[i].name, wanted.tool_calls[i].name) << text;
    EXPECT_EQ(got.tool_calls[i].arguments, wanted.tool_calls[i].arguments) << text;
  }
}

std::optional<Completion> parse_or_nothing(std::string_view text, ThinkingMode mode) {
  try {
    return parse_completion(text, mode);
  } catch (const Error&) {
    return std::nullopt;
  }
}

// The stream and the batch parser agree on verdict and result, and no delta holds markup or half a character.
void check_against_batch(const std::string& text, ThinkingMode mode, const std::vector<size_t>& cuts) {
  const std::vector<StreamEvent> events = stream(text, mode, cuts);
  ASSERT_FALSE(events.empty());
  ASSERT_EQ(events.back().kind, Kind::kDone);
  const std::optional<Completion> wanted = parse_or_nothing(text, mode);
  EXPECT_EQ(events.back().text.empty(), wanted.has_value()) << text << "\nstream: " << events.back().text;
  if (wanted.has_value()) expect_equal(add_up(events), *wanted, text);
  for (const StreamEvent& event : events) {
    EXPECT_EQ(utf8_valid_prefix(event.text), event.text.size()) << text;
    if (event.kind != Kind::kContent && event.kind != Kind::kReasoning) continue;
    for (const std::string_view marker : {"｜DSML｜", "<think>", "</think>", "<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>"}) {
      EXPECT_EQ(event.text.find(marker), std::string::npos) << text;
    }
  }
}

std::string text_of(const std::vector<StreamEvent>& events, Kind kind) {
  std::string text;
  for (const StreamEvent& event : events) {
    if (event.kind == kind) text += event.text;
  }
  return text;
}

TEST(StreamingParser, SendsEventsInOrder) {
  const std::string text =
      "why</think>sure\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"a\" "
      "string=\"true\">x\"y</｜DSML｜parameter>\n"
      "<｜DSML｜parameter name=\"b\" "
      "string=\"false\">[1]</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls><｜end▁of▁sentence｜>";
  std::vector<std::pair<Kind, std::string>> joined;  // neighbours of one kind joined: how deltas are cut is free
  for (const StreamEvent& event : stream(text, ThinkingMode::kThinking, every_byte(text))) {
    if (!joined.empty() && joined.back().first == event.kind) {
      joined.back().second += event.text;
    } else {
      joined.emplace_back(event.kind, event.text);
    }
  }
  const std::vector<std::pair<Kind, std::string>> wanted = {
      {Kind::kReasoning, "why"}, {Kind::kContent, "sure"}, {Kind::kToolCallBegin, "f"}, {Kind::kArguments, R"({"a": "x\"y", "b": [1]})"},
      {Kind::kToolCallEnd, ""},  {Kind::kDone, ""},
  };
  EXPECT_EQ(joined, wanted);
}

TEST(StreamingParser, SendsTextAtOnceWhereNoTagCanStart) {
  StreamingParser parser(ThinkingMode::kChat);
  EXPECT_EQ(text_of(parser.push("hello wor"), Kind::kContent), "hello wor");
  EXPECT_EQ(text_of(parser.push("ld 1 <"), Kind::kContent), "ld 1 ");
  EXPECT_EQ(text_of(parser.push(" 2\n"), Kind::kContent), "< 2");
  EXPECT_EQ(text_of(parser.push("\n\n"), Kind::kContent), "\n");
  EXPECT_EQ(text_of(parser.push("<｜DSM｜"), Kind::kContent), "\n\n<｜DSM");
  EXPECT_EQ(text_of(parser.push("x"), Kind::kContent), "｜x");
}

TEST(StreamingParser, SendsValuesWhileTheyAreWritten) {
  StreamingParser parser(ThinkingMode::kChat);
  parser.push("\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"k\" string=\"true\">");
  EXPECT_EQ(text_of(parser.push("line 1\nline"), Kind::kArguments), "line 1\\nline");
  EXPECT_EQ(text_of(parser.push(" 2 <b>"), Kind::kArguments), " 2 <b>");
  EXPECT_EQ(text_of(parser.push("</｜DSML｜"), Kind::kArguments), "");
  EXPECT_EQ(text_of(parser.push("parameter>\n</｜DSML｜invoke"), Kind::kArguments), "\"}");
}

// Grammar of random completions: mostly well-formed, with every text drawn from strings that look like markup.
class RandomCompletion {
 public:
  explicit RandomCompletion(uint64_t seed) : random_(seed) {}

  std::string make(ThinkingMode mode) {
    std::string text = mode == ThinkingMode::kThinking ? words() + "</think>" : "";
    text += words();
    if (pick(2) == 0) text += calls();
    return text + std::string(kEos);
  }

  // Replaces a few bytes' worth of text by something else, or cuts the end off.
  std::string damage(std::string text) {
    const size_t position = pick(text.size());
    switch (pick(4)) {
      case 0:
        return text.substr(0, position);
      case 1:
        return text.substr(0, position) + text.substr(std::min(text.size(), position + 1 + pick(8)));
      case 2:
        return text.substr(0, position) + word() + text.substr(position);
      default:
        return text.substr(0, position) + text.substr(pick(text.size()));
    }
  }

  std::vector<size_t> cuts(size_t size) {
    std::vector<size_t> cuts;
    const size_t mean = 1 + pick(12);
    for (size_t at = 1 + pick(mean * 2); at < size; at += 1 + pick(mean * 2)) cuts.push_back(at);
    return cuts;
  }

  size_t pick(size_t bound) { return bound == 0 ? 0 : random_() % bound; }

 private:
  std::string word() {
    static const std::vector<std::string> kWords = {"a",
                                                    "hello ",
                                                    "\n",
                                                    "\n\n",
                                                    "<",
                                                    "</",
                                                    "｜",
                                                    "<｜",
                                                    "<｜DSML",
                                                    "é",
                                                    "🙂",
                                                    "\"",
                                                    "\\",
                                                    "< b",
                                                    "<think",
                                                    "</thin",
                                                    "\t",
                                                    "\x01",
                                                    "<｜end▁of▁sentence",
                                                    "name=\"x\"",
                                                    "\" string=\"true\"",
                                                    ">",
                                                    ">\n",
                                                    "parameter",
                                                    "/｜",
                                                    "</｜DSML",
                                                    "<tool_result>",
                                                    "你好"};
    return kWords[pick(kWords.size())];
  }

  std::string words() {
    std::string text;
    for (size_t i = pick(6); i > 0; --i) text += word();
    return text;
  }

  std::string calls() {
    std::string text = "\n\n<｜DSML｜tool_calls>\n";
    for (size_t i = 1 + pick(3); i > 0; --i) {
      text += "<｜DSML｜invoke name=\"" + words() + "\">\n";
      const size_t num_parameters = pick(4);
      for (size_t k = 0; k < num_parameters; ++k) {
        text += "<｜DSML｜parameter name=\"" + words() + std::to_string(k) + "\" string=\"" + (pick(2) ? "true" : "false") + "\">" +
                words() + "</｜DSML｜parameter>\n";
      }
      text += num_parameters == 0 ? "\n</｜DSML｜invoke>\n" : "</｜DSML｜invoke>\n";
    }
    return text + "</｜DSML｜tool_calls>";
  }

  std::mt19937_64 random_;
};

TEST(StreamingParser, EqualsTheBatchParserHoweverTheTextIsCut) {
  int num_accepted = 0;
  for (uint64_t seed = 0; seed < 4000; ++seed) {
    RandomCompletion random(seed);
    const ThinkingMode mode = random.pick(2) ? ThinkingMode::kThinking : ThinkingMode::kChat;
    std::string text = random.make(mode);
    if (seed % 2 == 1) text = random.damage(text);
    // Damage can cut characters; the model's text is UTF-8.
    text.resize(utf8_valid_prefix(text));
    num_accepted += parse_or_nothing(text, mode).has_value();
    check_against_batch(text, mode, random.cuts(text.size()));
    check_against_batch(text, mode, every_byte(text));
    check_against_batch(text, mode, {});
    if (HasFailure()) return;
  }
  EXPECT_GT(num_accepted, 1000);  // the grammar makes enough that both parsers accept
}

TEST(StreamingParser, EqualsTheBatchParserOnEveryPrefix) {
  const std::string text =
      "why</think>sure\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"a\" "
      "string=\"true\">v<\n</｜DSML｜parameter>\n"
      "</｜DSML｜invoke>\n<｜DSML｜invoke name=\"g\">\n\n</｜DSML｜invoke>\n</｜DSML｜tool_calls><｜end▁of▁sentence｜>";
  for (size_t size = 0; size <= text.size(); ++size) {
    const std::string prefix = text.substr(0, utf8_complete_prefix(std::string_view(text).substr(0, size)));
    check_against_batch(prefix, ThinkingMode::kThinking, every_byte(prefix));
  }
}

TEST(StreamingParser, LeavesOutMisplacedControlTokens) {
  const auto events = stream("a<think>b</think>c<｜begin▁of▁sentence｜>d<｜end▁of▁sentence｜>", ThinkingMode::kChat, {});
  EXPECT_EQ(text_of(events, Kind::kContent), "abcd");
  EXPECT_EQ(events.back().text, "a control token inside the content");
}

TEST(StreamingParser, ParsesToolCallsThatStartInTheReasoning) {
  const auto events =
      stream("hm\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n\n</｜DSML｜invoke>\n</｜DSML｜tool_calls><｜end▁of▁sentence｜>",
             ThinkingMode::kThinking, {});
  const Completion completion = add_up(events);
  EXPECT_EQ(completion.reasoning_content, "hm");
  ASSERT_EQ(completion.tool_calls.size(), 1u);
  EXPECT_EQ(completion.tool_calls[0].arguments, "{}");
  EXPECT_EQ(events.back().text, "tool calls inside the reasoning");
}

TEST(StreamingParser, ParsesToolCallsWithoutTheEmptyLine) {
  const auto events =
      stream("hm<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n\n</｜DSML｜invoke>\n</｜DSML｜tool_calls><｜end▁of▁sentence｜>",
             ThinkingMode::kChat, {});
  const Completion completion = add_up(events);
  EXPECT_EQ(completion.content, "hm");
  EXPECT_EQ(completion.tool_calls.size(), 1u);
  EXPECT_EQ(events.back().text, "no empty line before the tool calls");
}

TEST(StreamingParser, DropsMarkupItCannotRead) {
  const auto events = stream("yes <｜DSML｜invoke name=\"f\">\n</｜DSML｜invoke> more", ThinkingMode::kChat, {});
  EXPECT_EQ(text_of(events, Kind::kContent), "yes ");
  EXPECT_EQ(events.back().text, "tool markup inside the content");
}

TEST(StreamingParser, ClosesACallThatIsCutShort) {
  const auto events = stream("\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"city\" string=\"true\">Ber",
                             ThinkingMode::kChat, {});
  const Completion completion = add_up(events);
  ASSERT_EQ(completion.tool_calls.size(), 1u);
  EXPECT_EQ(Json::parse(completion.tool_calls[0].arguments).find("city")->string(), "Ber");
  ASSERT_GE(events.size(), 2u);
  EXPECT_EQ(events[events.size() - 2].kind, Kind::kToolCallEnd);
  EXPECT_EQ(events.back().text, "the text ends inside a tool call");
}

TEST(StreamingParser, KeepsWhatALengthLimitLeaves) {
  const auto content = stream("one two\n\n<｜DSML", ThinkingMode::kChat, {});
  EXPECT_EQ(text_of(content, Kind::kContent), "one two\n\n");
  EXPECT_EQ(content.back().text, "the answer has no end-of-sentence token");
  const auto reasoning = stream("let me th", ThinkingMode::kThinking, {});
  EXPECT_EQ(text_of(reasoning, Kind::kReasoning), "let me th");
  EXPECT_EQ(reasoning.back().text, "the text ends inside the reasoning");
}

TEST(StreamingParser, EndsAtEosInsideTheReasoning) {
  const auto events = stream("hm<｜end▁of▁sentence｜>more", ThinkingMode::kThinking, {});
  EXPECT_EQ(text_of(events, Kind::kReasoning), "hm");
  EXPECT_EQ(text_of(events, Kind::kContent), "");
  EXPECT_EQ(events.back().text, "the reasoning has no </think>");
}

TEST(StreamingParser, StaysLinearOnALongHeader) {
  StreamingParser parser(ThinkingMode::kChat);
  parser.push("\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"");
  const std::string piece(64, 'x');
  // 1 MB in small pieces: each byte is looked at once, or this would take minutes.
  for (int i = 0; i < 16384; ++i) EXPECT_TRUE(parser.push(piece).empty());
  const auto events = parser.push("\">\n\n</｜DSML｜invoke");
  ASSERT_FALSE(events.empty());
  EXPECT_EQ(events.front().text.size(), 16384u * 64u);
}

}  // namespace
}  // namespace dsv4
