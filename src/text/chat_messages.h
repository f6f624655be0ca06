// Preparing a conversation for rendering: merging, ordering and dropping messages (spec 6.1).
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "text/json.h"

namespace dsv4 {

// One part of a user turn.
struct ContentBlock {
  bool is_tool_result;
  const Json* content;   // nullptr if the message had none
  std::string call_key;  // of a tool result: tool_call_id as JSON, "" if missing
};

// A message after merging. Points into the JSON it was made from.
struct ChatMessage {
  std::string role;                  // "" if missing or no string
  const Json* source;                // nullptr for a user turn that starts with a tool result
  std::vector<ContentBlock> blocks;  // user turns only, never empty there
  std::string where;                 // "messages[3]", for errors

  // A field of the message; nullptr if missing. Of a user turn only `task` counts (its content is in the blocks).
  const Json* field(std::string_view name) const;
  bool has_truthy(std::string_view name) const;
  // A field that is there and not null.
  bool has_value(std::string_view name) const;
};

// Tool-call id (as JSON) -> index in the most recent assistant message that called tools.
using CallOrder = std::map<std::string, size_t>;

// Step 1: user and tool messages in a row become one user turn. Throws Error unless `messages` is an array of objects.
// `name` is what errors call the array; the result points into `messages`.
std::vector<ChatMessage> merge_messages(const Json& messages, std::string_view name);

// Step 2: puts the tool results of every user turn into the order of the calls before it. `order` is the state of the walk.
void order_tool_results(std::vector<ChatMessage>& messages, CallOrder& order);

// Walks over unmerged messages for their calls alone.
void note_tool_calls(const Json& messages, CallOrder& order);

// Index of the last message with role user or developer, -1 if there is none.
int last_user_index(const std::vector<ChatMessage>& messages);

// "Drop" of step 5: what is left of the list before the last user message when reasoning is dropped. (Assistant messages stay: those before
// the last user message are rendered without reasoning anyway.)
std::vector<ChatMessage> drop_messages(const std::vector<ChatMessage>& messages);

}  // namespace dsv4
