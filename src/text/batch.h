// One JSON line in, one JSON line out: the prompt encoder and the completion parser for the command line.
#pragma once

#include <string>
#include <string_view>

namespace dsv4 {

// {"messages": […], "thinking_mode": "chat"|"thinking", "drop_thinking": true|false (true), "reasoning_effort": null|"high"|"max" (null),
// "context": […] ([]), "add_bos": true|false (true)} -> {"prompt": "…"} or {"error": "…"}. Defaults in parentheses; other keys are ignored.
std::string encode_batch_line(std::string_view line);

// {"text": "…", "thinking_mode": "chat"|"thinking"} -> {"role": "assistant", "content": "…", "reasoning_content": "…", "tool_calls": […]}
// or
// {"error": "…"}. Other keys are ignored.
std::string parse_batch_line(std::string_view line);

}  // namespace dsv4
