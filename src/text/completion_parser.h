// Parsing a finished completion (spec 6.4), strict as the official parser. For text that arrives in pieces see streaming_parser.h.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/chat_encoding.h"
#include "text/json.h"

namespace dsv4 {

struct ToolCall {
  std::string name;
  std::string arguments;  // JSON text of an object; the values of string="false" parameters stand in it unchecked
};

// An assistant message.
struct Completion {
  std::string reasoning_content;
  std::string content;
  std::vector<ToolCall> tool_calls;
};

// Parses what the model wrote after a prompt, special tokens kept, EOS included. Throws Error with the byte where the text leaves the
// format.
Completion parse_completion(std::string_view text, ThinkingMode mode);

// {"role": "assistant", "content", "reasoning_content", "tool_calls": [{"type": "function", "function": {"name", "arguments"}}]}: an input
// of the encoder.
Json message_json(Completion completion);

// Pieces of the grammar that both parsers use.
namespace completion_grammar {

// What separates content from the tool calls.
inline constexpr std::string_view kToolCallsStart = "\n\n<｜DSML｜tool_calls";
// End of a parameter as the official parser looks for it: the "<" before it belongs to the text it checks.
inline constexpr std::string_view kParameterEnd = "/｜DSML｜parameter";
// Between the name and the value of a parameter.
inline constexpr std::string_view kStringTrue = "\" string=\"true\">";
inline constexpr std::string_view kStringFalse = "\" string=\"false\">";

// The name in the text between an invoke tag's start and the next tag: optional white space (Python's), name="NAME">, a line feed or two.
std::optional<std::string_view> invoke_name(std::string_view header);

// Appends the start of a pair to arguments under construction: separator, key, colon.
void begin_argument(std::string& arguments, std::string_view key, bool is_first);

}  // namespace completion_grammar

}  // namespace dsv4
