#include "text/completion_parser.h"

#include <array>
#include <initializer_list>
#include <set>
#include <utility>

#include "base/error.h"
#include "text/json.h"
#include "text/protocol.h"

namespace dsv4 {
namespace completion_grammar {
namespace {

// Length of the white space (Python's str.isspace, which is also \s of its re module) that starts `text`, in bytes.
size_t leading_white_space(std::string_view text) {
  // ASCII: tab to CR, the separators 0x1c to 0x1f, space. The rest is listed as UTF-8.
  constexpr std::array<std::string_view, 19> kWide = {"\u0085", "\u00a0", "\u1680", "\u2000", "\u2001", "\u2002", "\u2003",
                                                      "\u2004", "\u2005", "\u2006", "\u2007", "\u2008", "\u2009", "\u200a",
                                                      "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"};
  size_t length = 0;
  while (length < text.size()) {
    const char c = text[length];
    if ((c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20)) {
      ++length;
      continue;
    }
    const std::string_view* wide = nullptr;
    for (const std::string_view& space : kWide) {
      if (text.substr(length).starts_with(space)) wide = &space;
    }
    if (wide == nullptr) break;
    length += wide->size();
  }
  return length;
}

}  // namespace

std::optional<std::string_view> invoke_name(std::string_view header) {
  constexpr std::string_view kStart = "name=\"";
  constexpr std::string_view kEnd = "\">\n";
  header.remove_prefix(leading_white_space(header));
  if (!header.starts_with(kStart)) return std::nullopt;
  header.remove_prefix(kStart.size());
  if (header.ends_with("\n\n")) header.remove_suffix(1);
  if (!header.ends_with(kEnd)) return std::nullopt;
  header.remove_suffix(kEnd.size());
  return header;
}

void begin_argument(std::string& arguments, std::string_view key, bool is_first) {
  if (!is_first) arguments += ", ";
  append_json_string(arguments, key);
  arguments += ": ";
}

}  // namespace completion_grammar

namespace {

namespace grammar = completion_grammar;

class CompletionParser {
 public:
  CompletionParser(std::string_view text, ThinkingMode mode) : text_(text), mode_(mode) {}

  Completion parse() {
    Completion completion;
    if (mode_ == ThinkingMode::kThinking) {
      const auto [reasoning, stop] = until({protocol::kEndThink, grammar::kToolCallsStart});
      check(stop == protocol::kEndThink, "the reasoning has no </think>");
      completion.reasoning_content = reasoning;
    }
    const auto [content, stop] = until({protocol::kEos, grammar::kToolCallsStart});
    check(!stop.empty(), "the answer has no end-of-sentence token");
    completion.content = content;
    if (stop == grammar::kToolCallsStart) {
      parse_calls(completion.tool_calls);
      check(until({protocol::kEos}).text.empty(), "text after the tool calls");
    }
    check(position_ == text_.size(), "text after the end-of-sentence token");
    check_no_markers(completion.reasoning_content, "reasoning");
    check_no_markers(completion.content, "content");
    return completion;
  }

 private:
  struct Found {
    std::string_view text;  // up to the stop
    std::string_view stop;  // empty at the end of the text
  };

  void check(bool condition, std::string_view message) const { require(condition, "completion: byte {}: {}", position_, message); }

  // Advances past the earliest of `stops`, or to the end.
  Found until(std::initializer_list<std::string_view> stops) {
    const size_t start = position_;
    for (size_t at = start; at < text_.size(); ++at) {
      for (const std::string_view stop : stops) {
        if (text_[at] != stop.front() || !text_.substr(at).starts_with(stop)) continue;
        position_ = at + stop.size();
        return {text_.substr(start, at - start), stop};
      }
    }
    position_ = text_.size();
    return {text_.substr(start), {}};
  }

  // Each tag is read without its final ">"; that and the line feed after it start the text before the next tag. Like the official parser,
  // takes a text that ends where the loop starts anew, or after a complete header or parameter, for complete.
  void parse_calls(std::vector<ToolCall>& calls) {
    while (position_ < text_.size()) {
      const auto [before, stop] = until({protocol::kInvoke, protocol::kEndToolCalls});
      check(before == ">\n", "expected \">\" and a line feed before the next tag of the tool calls");
      if (stop == protocol::kEndToolCalls) return;
      check(!stop.empty(), "the tool calls have no end");
      calls.push_back(parse_call());
    }
  }

  ToolCall parse_call() {
    auto [header, stop] = until({protocol::kParameter, protocol::kEndInvoke});
    const auto name = grammar::invoke_name(header);
    check(name.has_value(), "expected name=\"…\"> and a line feed in an invoke tag");
    ToolCall call{std::string(*name), "{"};
    std::set<std::string_view> keys;
    while (stop == protocol::kParameter) {
      const auto key = parse_parameter(call.arguments, keys.empty());
      check(keys.insert(key).second, "a parameter appears twice");
      const auto [between, next] = until({protocol::kParameter, protocol::kEndInvoke});
      check(between == ">\n", "expected \">\" and a line feed after a parameter");
      stop = next;
    }
    call.arguments += "}";
    return call;
  }

  // Reads ` name="K" string="true|false">V<` before the parameter's end, appends the pair and returns K.
  std::string_view parse_parameter(std::string& arguments, bool is_first) {
    constexpr std::string_view kStart = " name=\"";
    std::string_view parameter = until({grammar::kParameterEnd}).text;
    check(parameter.starts_with(kStart), "expected name=\"…\" in a parameter tag");
    parameter.remove_prefix(kStart.size());
    const size_t with_true = parameter.find(grammar::kStringTrue);
    const size_t with_false = parameter.find(grammar::kStringFalse);
    const bool is_string = with_true < with_false;
    const size_t key_bytes = is_string ? with_true : with_false;
    check(key_bytes != std::string_view::npos, "expected string=\"true\" or string=\"false\" in a parameter tag");
    std::string_view value = parameter.substr(key_bytes + (is_string ? grammar::kStringTrue : grammar::kStringFalse).size());
    if (value.ends_with('\n')) value.remove_suffix(1);
    check(value.ends_with('<'), "expected \"<\" before the end of a parameter");
    value.remove_suffix(1);

    const std::string_view key = parameter.substr(0, key_bytes);
    grammar::begin_argument(arguments, key, is_first);
    if (is_string) {
      append_json_string(arguments, value);
    } else {
      arguments += value;
    }
    return key;
  }

  void check_no_markers(std::string_view text, std::string_view part) const {
    for (const std::string_view marker : {protocol::kBos, protocol::kEos, protocol::kThink, protocol::kEndThink, protocol::kDsml}) {
      require(text.find(marker) == std::string_view::npos, "completion: {} inside the {}", marker, part);
    }
  }

  std::string_view text_;
  ThinkingMode mode_;
  size_t position_ = 0;
};

}  // namespace

Completion parse_completion(std::string_view text, ThinkingMode mode) {
  return CompletionParser(text, mode).parse();
}

Json message_json(Completion completion) {
  Json::Array calls;
  for (ToolCall& call : completion.tool_calls) {
    Json::Object function = {{"name", Json(std::move(call.name))}, {"arguments", Json(std::move(call.arguments))}};
    calls.emplace_back(Json::Object{{"type", Json("function")}, {"function", Json(std::move(function))}});
  }
  return Json(Json::Object{{"role", Json("assistant")},
                           {"content", Json(std::move(completion.content))},
                           {"reasoning_content", Json(std::move(completion.reasoning_content))},
                           {"tool_calls", Json(std::move(calls))}});
}

}  // namespace dsv4
