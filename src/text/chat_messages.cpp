#include "text/chat_messages.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/error.h"

namespace dsv4 {
namespace {

// Id of a call as JSON: its own, else its function's; "" if both are missing or empty.
std::string call_key(const Json& call) {
  const Json* id = call.find("id");
  if (id == nullptr || !id->truthy()) {
    const Json* function = call.find("function");
    id = function == nullptr ? nullptr : function->find("id");
  }
  return id == nullptr || !id->truthy() ? std::string() : id->dump();
}

void note_calls_of(const Json& message, CallOrder& order) {
  const Json* role = message.find("role");
  const Json* calls = message.find("tool_calls");
  if (role == nullptr || !role->is_string() || role->string() != "assistant" || calls == nullptr || !calls->truthy()) return;
  order.clear();
  if (!calls->is_array()) return;  // an error where it is rendered
  for (size_t i = 0; i < calls->array().size(); ++i) {
    const std::string key = call_key(calls->array()[i]);
    if (!key.empty()) order[key] = i;
  }
}

void order_blocks(std::vector<ContentBlock>& blocks, const CallOrder& order) {
  std::vector<ContentBlock> results;
  std::copy_if(blocks.begin(), blocks.end(), std::back_inserter(results), [](const ContentBlock& block) { return block.is_tool_result; });
  const auto index_of = [&](const ContentBlock& block) {
    const auto found = order.find(block.call_key);
    return found == order.end() ? 0 : found->second;
  };
  std::stable_sort(results.begin(), results.end(), [&](const auto& a, const auto& b) { return index_of(a) < index_of(b); });
  auto next = results.begin();
  for (ContentBlock& block : blocks) {
    if (block.is_tool_result) block = std::move(*next++);
  }
}

std::string role_of(const Json& message) {
  const Json* role = message.find("role");
  return role != nullptr && role->is_string() ? role->string() : std::string();
}

}  // namespace

const Json* ChatMessage::field(std::string_view name) const {
  if (source == nullptr || (role == "user" && name != "task")) return nullptr;
  return source->find(name);
}

bool ChatMessage::has_truthy(std::string_view name) const {
  const Json* value = field(name);
  return value != nullptr && value->truthy();
}

bool ChatMessage::has_value(std::string_view name) const {
  const Json* value = field(name);
  return value != nullptr && !value->is_null();
}

std::vector<ChatMessage> merge_messages(const Json& messages, std::string_view name) {
  require(messages.is_array(), "{}: {}, expected an array", name, messages.kind_name());
  std::vector<ChatMessage> merged;
  for (size_t i = 0; i < messages.array().size(); ++i) {
    const Json& message = messages.array()[i];
    const std::string where = fmt::format("{}[{}]", name, i);
    require(message.is_object(), "{}: {}, expected an object", where, message.kind_name());
    const std::string role = role_of(message);
    const bool after_user = !merged.empty() && merged.back().role == "user";
    if (role == "tool") {
      const Json* id = message.find("tool_call_id");
      if (!after_user) merged.push_back({"user", nullptr, {}, where});
      merged.back().blocks.push_back({true, message.find("content"), id == nullptr ? std::string() : id->dump()});
    } else if (role == "user") {
      if (!after_user || merged.back().has_value("task")) merged.push_back({role, &message, {}, where});
      merged.back().blocks.push_back({false, message.find("content"), ""});
    } else {
      merged.push_back({role, &message, {}, where});
    }
  }
  return merged;
}

void order_tool_results(std::vector<ChatMessage>& messages, CallOrder& order) {
  for (ChatMessage& message : messages) {
    if (message.role == "assistant") note_calls_of(*message.source, order);
    if (message.role == "user" && !order.empty()) order_blocks(message.blocks, order);
  }
}

void note_tool_calls(const Json& messages, CallOrder& order) {
  for (const Json& message : messages.array()) note_calls_of(message, order);
}

int last_user_index(const std::vector<ChatMessage>& messages) {
  for (int i = static_cast<int>(messages.size()) - 1; i >= 0; --i) {
    const std::string& role = messages[static_cast<size_t>(i)].role;
    if (role == "user" || role == "developer") return i;
  }
  return -1;
}

std::vector<ChatMessage> drop_messages(const std::vector<ChatMessage>& messages) {
  constexpr std::array<std::string_view, 6> kKept = {"user", "system", "tool", "latest_reminder", "direct_search_results", "assistant"};
  const int last_user = last_user_index(messages);
  std::vector<ChatMessage> left;
  for (int i = 0; i < static_cast<int>(messages.size()); ++i) {
    const ChatMessage& message = messages[static_cast<size_t>(i)];
    if (i >= last_user || std::find(kKept.begin(), kKept.end(), message.role) != kKept.end()) left.push_back(message);
  }
  return left;
}

}  // namespace dsv4
