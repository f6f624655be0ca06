// Prompts from messages, and messages from answers.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "cli/options.h"
#include "text/completion_parser.h"
#include "text/json.h"
#include "text/tokenizer.h"

namespace dsv4 {

// The encoder's words for it.
ThinkingMode thinking_mode(ThinkMode mode);
ChatOptions chat_options(ThinkMode mode);

// Takes the text of an answer apart (without the end of text). A whole answer is read by the protocol's rules; what is broken off or does
// not follow them is cut at "</think>" alone, and tool calls stay in the content.
Completion split_answer(std::string_view text, ThinkMode mode, bool is_whole);

// A conversation as it is handed to the encoder.
class Conversation {
 public:
  // Replaces the system message; empty: none.
  void set_system(std::string text) { system_ = std::move(text); }
  void add_user(std::string text);
  void add_assistant(Completion parts);
  // Takes back the last message.
  void pop();
  void clear() { turns_.clear(); }
  bool empty() const { return turns_.empty(); }

  // The ids of the prompt for the next answer. What the user, the system message or an earlier answer spells like a control token is plain
  // text.
  std::vector<int32_t> prompt_ids(const Tokenizer& tokenizer, ThinkMode mode) const;

 private:
  std::string system_;
  Json::Array turns_;
};

}  // namespace dsv4
