// The prompt encoder: messages to the text the model continues (spec 6.1 to 6.3), byte for byte as the official encoder writes it.
#pragma once

#include <string>
#include <vector>

#include "text/json.h"
#include "text/text_segment.h"

namespace dsv4 {

enum class ThinkingMode : uint8_t { kChat, kThinking };
enum class ReasoningEffort : uint8_t { kNone, kHigh, kMax };  // kHigh writes the same prompt as kNone

struct ChatOptions {
  ThinkingMode thinking_mode = ThinkingMode::kChat;
  bool drop_thinking = true;  // leave out the reasoning of earlier turns (kept anyway when tools are offered)
  bool add_bos = true;        // start with BOS, unless a context is given
  ReasoningEffort reasoning_effort = ReasoningEffort::kNone;
};

// A prompt, cut into the encoder's own literals and what came from the messages; neighbours differ in trust.
// Tokenizer::encode(segments) makes ids that no message can forge; encode(text()) treats "<｜User｜>" in a message as the real thing.
struct Prompt {
  std::vector<TextSegment> segments;

  std::string text() const;
};

// Encodes an array of OpenAI-style messages: objects with `role` (system, developer, user, assistant, tool, latest_reminder), `content`,
// and by role `reasoning_content`, `tool_calls`, `tool_call_id`, `tools`, `response_format`, `task`, `wo_eos`. `context` holds earlier
// messages that were encoded before; the result continues them. Throws Error that names the message at fault.
Prompt encode_chat(const Json& messages, const ChatOptions& options, const Json& context = Json(Json::Array()));

// "chat" or "thinking"; throws Error for anything else.
ThinkingMode thinking_mode_from_json(const Json& value);

// null, "high" or "max"; throws Error for anything else.
ReasoningEffort reasoning_effort_from_json(const Json& value);

}  // namespace dsv4
