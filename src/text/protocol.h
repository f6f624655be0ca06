// The literals of the prompt protocol (spec appendix A). Strings that the tokenizer knows as added tokens come first.
#pragma once

#include <array>
#include <string_view>
#include <utility>

namespace dsv4::protocol {

inline constexpr std::string_view kBos = "<｜begin▁of▁sentence｜>";
inline constexpr std::string_view kEos = "<｜end▁of▁sentence｜>";
inline constexpr std::string_view kUser = "<｜User｜>";
inline constexpr std::string_view kAssistant = "<｜Assistant｜>";
inline constexpr std::string_view kLatestReminder = "<｜latest_reminder｜>";
inline constexpr std::string_view kThink = "<think>";
inline constexpr std::string_view kEndThink = "</think>";
inline constexpr std::string_view kDsml = "｜DSML｜";
inline constexpr std::string_view kAction = "<｜action｜>";

// Task names and their tokens.
inline constexpr std::array<std::pair<std::string_view, std::string_view>, 6> kTasks = {{
    {"action", kAction},
    {"query", "<｜query｜>"},
    {"authority", "<｜authority｜>"},
    {"domain", "<｜domain｜>"},
    {"title", "<｜title｜>"},
    {"read_url", "<｜read_url｜>"},
}};

// Markup of tool calls. kToolCalls and the other opening tags lack their end, which differs.
inline constexpr std::string_view kToolCalls = "<｜DSML｜tool_calls";
inline constexpr std::string_view kEndToolCalls = "</｜DSML｜tool_calls>";
inline constexpr std::string_view kInvoke = "<｜DSML｜invoke";
inline constexpr std::string_view kEndInvoke = "</｜DSML｜invoke";
inline constexpr std::string_view kParameter = "<｜DSML｜parameter";
inline constexpr std::string_view kEndParameter = "</｜DSML｜parameter";

inline constexpr std::string_view kToolResult = "<tool_result>";
inline constexpr std::string_view kEndToolResult = "</tool_result>";

// Stands after BOS for the highest reasoning effort (A.2).
inline constexpr std::string_view kMaxEffort =
    "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n"
    "You MUST be very thorough in your thinking and comprehensively decompose the problem to resolve the root cause, rigorously "
    "stress-testing your logic against all potential paths, edge cases, and adversarial scenarios.\n"
    "Explicitly write out your entire deliberation process, documenting every intermediate step, considered alternative, and rejected "
    "hypothesis to ensure absolutely no assumption is left unchecked.\n\n";

// The tools text (A.3) before and after the schema lines.
inline constexpr std::string_view kToolsBeforeSchemas =
    R"(## Tools

You have access to a set of tools to help answer the user's question. You can invoke tools by writing a )"
    R"("<｜DSML｜tool_calls>" block like the following:

<｜DSML｜tool_calls>
<｜DSML｜invoke name="$TOOL_NAME">
<｜DSML｜parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</｜DSML｜parameter>
...
</｜DSML｜invoke>
<｜DSML｜invoke name="$TOOL_NAME2">
...
</｜DSML｜invoke>
</｜DSML｜tool_calls>

String parameters should be specified as is and set `string="true"`. For all other types (numbers, booleans, arrays, objects), )"
    R"(pass the value in JSON format and set `string="false"`.

If thinking_mode is enabled (triggered by <think>), you MUST output your complete reasoning inside <think>...</think> )"
    R"(BEFORE any tool calls or final response.

Otherwise, output directly after </think> with tool calls or final response.

### Available Tool Schemas

)";
inline constexpr std::string_view kToolsAfterSchemas =
    "\n\nYou MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.\n";

// Precedes the schema of a response format (A.4).
inline constexpr std::string_view kResponseFormat = "## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n";

}  // namespace dsv4::protocol
