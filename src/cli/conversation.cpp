#include "cli/conversation.h"

#include "base/error.h"
#include "text/protocol.h"

namespace dsv4 {
namespace {

Json message(const char* role, std::string content) {
  return Json(Json::Object{{"role", Json(role)}, {"content", Json(std::move(content))}});
}

// Cuts at "</think>" alone. Without one, all of a thinking answer is reasoning.
Completion cut_answer(std::string_view text, ThinkMode mode) {
  Completion parts;
  if (mode != ThinkMode::kNone) {
    const size_t end = text.find(protocol::kEndThink);
    parts.reasoning_content = text.substr(0, end);
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + protocol::kEndThink.size());
  }
  parts.content = text;
  return parts;
}

}  // namespace

ThinkingMode thinking_mode(ThinkMode mode) {
  return mode == ThinkMode::kNone ? ThinkingMode::kChat : ThinkingMode::kThinking;
}

ChatOptions chat_options(ThinkMode mode) {
  ChatOptions options;
  options.thinking_mode = thinking_mode(mode);
  if (mode == ThinkMode::kMax) options.reasoning_effort = ReasoningEffort::kMax;
  if (mode == ThinkMode::kHigh) options.reasoning_effort = ReasoningEffort::kHigh;
  return options;
}

Completion split_answer(std::string_view text, ThinkMode mode, bool is_whole) {
  if (!is_whole) return cut_answer(text, mode);
  try {
    return parse_completion(std::string(text).append(protocol::kEos), thinking_mode(mode));
  } catch (const Error&) {
    return cut_answer(text, mode);
  }
}

void Conversation::add_user(std::string text) {
  turns_.push_back(message("user", std::move(text)));
}

void Conversation::add_assistant(Completion parts) {
  turns_.push_back(message_json(std::move(parts)));
}

void Conversation::pop() {
  turns_.pop_back();
}

std::vector<int32_t> Conversation::prompt_ids(const Tokenizer& tokenizer, ThinkMode mode) const {
  Json::Array messages;
  if (!system_.empty()) messages.push_back(message("system", system_));
  messages.insert(messages.end(), turns_.begin(), turns_.end());
  return tokenizer.encode(encode_chat(Json(std::move(messages)), chat_options(mode)).segments);
}

}  // namespace dsv4
