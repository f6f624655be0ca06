#include "text/chat_encoding.h"

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "text/chat_messages.h"
#include "text/protocol.h"

namespace dsv4 {
namespace {

// Collects segments, joining neighbours of the same trust.
class PromptBuilder {
 public:
  void literal(std::string_view text) { append(text, true); }
  void user(std::string_view text) { append(text, false); }

  std::vector<TextSegment> take() { return std::move(segments_); }

 private:
  void append(std::string_view text, bool trusted) {
    if (text.empty()) return;
    if (segments_.empty() || segments_.back().trusted != trusted) segments_.push_back({"", trusted});
    segments_.back().text += text;
  }

  std::vector<TextSegment> segments_;
};

// str(value) of Python for what the official encoder puts into a template unchecked; nullptr counts as None.
std::string python_str(const Json* value, std::string_view where) {
  if (value == nullptr) return "None";
  switch (value->kind()) {
    case Json::Kind::kNull:
      return "None";
    case Json::Kind::kBool:
      return value->boolean() ? "True" : "False";
    case Json::Kind::kString:
      return value->string();
    case Json::Kind::kInteger:
      return value->digits();
    case Json::Kind::kFloat: {
      const std::string text = python_float(value->number());
      return text == "NaN" ? "nan" : text == "Infinity" ? "inf" : text == "-Infinity" ? "-inf" : text;
    }
    default:
      fail("{}: {}, expected a string", where, value->kind_name());
  }
}

// `value or ""` of the official encoder, put into a template.
std::string text_or_empty(const ChatMessage& message, std::string_view name) {
  if (!message.has_truthy(name)) return {};
  return python_str(message.field(name), fmt::format("{}.{}", message.where, name));
}

// Every tool that is offered needs a `function`, whoever's message it is.
void check_tools(const ChatMessage& message) {
  if (!message.has_truthy("tools")) return;
  const Json& tools = *message.field("tools");
  require(tools.is_array(), "{}.tools: {}, expected an array", message.where, tools.kind_name());
  for (size_t i = 0; i < tools.array().size(); ++i) {
    require(tools.array()[i].find("function") != nullptr, "{}.tools[{}].function: missing", message.where, i);
  }
}

// Every call needs a function with name and arguments.
void check_calls(const ChatMessage& message) {
  if (!message.has_truthy("tool_calls")) return;
  const Json& calls = *message.field("tool_calls");
  require(calls.is_array(), "{}.tool_calls: {}, expected an array", message.where, calls.kind_name());
  for (size_t i = 0; i < calls.array().size(); ++i) {
    const Json* function = calls.array()[i].find("function");
    for (const char* key : {"name", "arguments"}) {
      require(function != nullptr && function->find(key) != nullptr, "{}.tool_calls[{}].function.{}: missing", message.where, i, key);
    }
  }
}

// The parameters of a call. Arguments that are no JSON text become one parameter of their own.
Json::Object call_parameters(const Json& arguments, const std::string& where) {
  if (!arguments.is_string()) return {{"arguments", arguments}};
  Json parsed;
  try {
    parsed = Json::parse(arguments.string());
  } catch (const Error&) {
    return {{"arguments", arguments}};
  }
  require(parsed.is_object(), "{}.arguments: {} in JSON, expected an object", where, parsed.kind_name());
  return parsed.object();
}

// Renders messages (spec 6.2). `full` is context and messages after Drop.
class Renderer {
 public:
  Renderer(const std::vector<ChatMessage>& full, const ChatOptions& options, bool drop, PromptBuilder& out)
      : full_(full),
        thinking_(options.thinking_mode == ThinkingMode::kThinking),
        effort_(options.reasoning_effort),
        drop_(drop),
        out_(out) {
    last_user_ = last_user_index(full);
  }

  void render(int index) {
    const ChatMessage& message = full_[static_cast<size_t>(index)];
    check_tools(message);
    check_calls(message);
    if (index == 0 && thinking_ && effort_ == ReasoningEffort::kMax) out_.literal(protocol::kMaxEffort);
    if (message.role == "system") {
      out_.user(text_or_empty(message, "content"));
      render_tools_and_format(message);
    } else if (message.role == "developer") {
      const Json* content = message.field("content");
      require(message.has_truthy("content") && content->is_string(), "{}.content: missing or no text, expected a string", message.where);
      out_.literal(protocol::kUser);
      out_.user(content->string());
      render_tools_and_format(message);
    } else if (message.role == "user") {
      render_user(message);
    } else if (message.role == "latest_reminder") {
      out_.literal(protocol::kLatestReminder);
      out_.user(python_str(message.field("content"), message.where + ".content"));
    } else if (message.role == "assistant") {
      render_assistant(index);
    } else {
      fail("{}.role: {}, expected system, developer, user, assistant, tool or latest_reminder", message.where, role_as_given(message));
    }
    render_transition(index);
  }

 private:
  static std::string role_as_given(const ChatMessage& message) {
    const Json* role = message.field("role");
    return role == nullptr ? "missing" : role->dump();
  }

  void render_tools_and_format(const ChatMessage& message) {
    if (message.has_truthy("tools")) {
      out_.literal("\n\n");
      render_tools(message.field("tools")->array());
    }
    if (message.has_truthy("response_format")) {
      out_.literal("\n\n");
      out_.literal(protocol::kResponseFormat);
      out_.user(message.field("response_format")->dump());
    }
  }

  void render_tools(const Json::Array& tools) {
    out_.literal(protocol::kToolsBeforeSchemas);
    for (const Json& tool : tools) {
      if (&tool != tools.data()) out_.literal("\n");
      out_.user(tool.find("function")->dump());
    }
    out_.literal(protocol::kToolsAfterSchemas);
  }

  void render_user(const ChatMessage& message) {
    out_.literal(protocol::kUser);
    bool first = true;
    for (const ContentBlock& block : message.blocks) {
      if (!std::exchange(first, false)) out_.literal("\n\n");
      if (block.is_tool_result) {
        out_.literal(protocol::kToolResult);
        render_tool_result(block.content, message.where);
        out_.literal(protocol::kEndToolResult);
      } else if (block.content != nullptr) {
        require(block.content->is_string(), "{}: user content is {}, expected a string", message.where, block.content->kind_name());
        out_.user(block.content->string());
      }
    }
  }

  void render_tool_result(const Json* content, const std::string& where) {
    if (content == nullptr) return;
    if (!content->is_array()) return out_.user(python_str(content, where + ": tool result"));
    bool first = true;
    for (const Json& element : content->array()) {
      require(element.is_object(), "{}: element of a tool result is {}, expected an object", where, element.kind_name());
      if (!std::exchange(first, false)) out_.literal("\n\n");
      const Json* type = element.find("type");
      if (type != nullptr && type->is_string() && type->string() == "text") {
        const Json* text = element.find("text");
        if (text == nullptr) continue;
        require(text->is_string(), "{}: text of a tool result is {}, expected a string", where, text->kind_name());
        out_.user(text->string());
      } else {
        out_.user("[Unsupported " + python_str(type, where + ": type of a tool result's element") + "]");
      }
    }
  }

  void render_assistant(int index) {
    const ChatMessage& message = full_[static_cast<size_t>(index)];
    const bool answers_task = index > 0 && full_[static_cast<size_t>(index) - 1].has_value("task");
    if (thinking_ && !answers_task && (!drop_ || index > last_user_)) {
      out_.user(text_or_empty(message, "reasoning_content"));
      out_.literal(protocol::kEndThink);
    }
    out_.user(text_or_empty(message, "content"));
    if (message.has_truthy("tool_calls")) render_calls(message.field("tool_calls")->array(), message.where);
    if (!message.has_truthy("wo_eos")) out_.literal(protocol::kEos);
  }

  void render_calls(const Json::Array& calls, const std::string& where) {
    out_.literal("\n\n");
    out_.literal(protocol::kToolCalls);
    out_.literal(">\n");
    for (size_t i = 0; i < calls.size(); ++i) {
      render_invoke(*calls[i].find("function"), fmt::format("{}.tool_calls[{}].function", where, i));
      out_.literal("\n");
    }
    out_.literal(protocol::kEndToolCalls);
  }

  void render_invoke(const Json& function, const std::string& where) {
    const Json::Object parameters = call_parameters(*function.find("arguments"), where);
    out_.literal(protocol::kInvoke);
    out_.literal(" name=\"");
    out_.user(python_str(function.find("name"), where + ".name"));
    out_.literal("\">\n");
    for (const Json::Member& parameter : parameters) {
      if (&parameter != parameters.data()) out_.literal("\n");
      render_parameter(parameter);
    }
    out_.literal("\n");  // without parameters an empty line is left
    out_.literal(protocol::kEndInvoke);
    out_.literal(">");
  }

  void render_parameter(const Json::Member& parameter) {
    const bool is_string = parameter.second.is_string();
    out_.literal(protocol::kParameter);
    out_.literal(" name=\"");
    out_.user(parameter.first);
    out_.literal(is_string ? "\" string=\"true\">" : "\" string=\"false\">");
    out_.user(is_string ? parameter.second.string() : parameter.second.dump());
    out_.literal(protocol::kEndParameter);
    out_.literal(">");
  }

  // What follows a message unless another turn does: the start of the answer or a task's token.
  void render_transition(int index) {
    const ChatMessage& message = full_[static_cast<size_t>(index)];
    const auto next = static_cast<size_t>(index) + 1;
    if (next < full_.size() && full_[next].role != "assistant" && full_[next].role != "latest_reminder") return;
    if (message.has_value("task")) {
      const std::string_view token = task_token(*message.field("task"), message.where);
      if (token == protocol::kAction) render_answer_start(thinking_);
      out_.literal(token);
    } else if (message.role == "user" || message.role == "developer") {
      render_answer_start(thinking_ && (!drop_ || index >= last_user_));
    }
  }

  void render_answer_start(bool with_reasoning) {
    out_.literal(protocol::kAssistant);
    out_.literal(with_reasoning ? protocol::kThink : protocol::kEndThink);
  }

  static std::string_view task_token(const Json& task, const std::string& where) {
    const auto found = std::find_if(protocol::kTasks.begin(), protocol::kTasks.end(),
                                    [&](const auto& entry) { return task.is_string() && task.string() == entry.first; });
    require(found != protocol::kTasks.end(), "{}.task: {}, expected action, query, authority, domain, title or read_url", where,
            task.dump());
    return found->second;
  }

  const std::vector<ChatMessage>& full_;
  bool thinking_;
  ReasoningEffort effort_;
  bool drop_;
  int last_user_;
  PromptBuilder& out_;
};

}  // namespace

std::string Prompt::text() const {
  std::string text;
  for (const TextSegment& segment : segments) text += segment.text;
  return text;
}

Prompt encode_chat(const Json& messages, const ChatOptions& options, const Json& context) {
  std::vector<ChatMessage> earlier = merge_messages(context, "context");
  std::vector<ChatMessage> full = merge_messages(messages, "messages");
  size_t num_to_render = full.size();

  CallOrder order;
  note_tool_calls(context, order);
  order_tool_results(full, order);
  CallOrder order_in_context;
  order_tool_results(earlier, order_in_context);
  full.insert(full.begin(), earlier.begin(), earlier.end());

  const bool has_tools = std::any_of(full.begin(), full.end(), [](const ChatMessage& message) { return message.has_truthy("tools"); });
  const bool drop = options.drop_thinking && !has_tools;
  if (drop && options.thinking_mode == ThinkingMode::kThinking) {
    full = drop_messages(full);
    // A new user turn can remove more from the context than it adds; then nothing is left to render.
    num_to_render = full.size() - std::min(full.size(), drop_messages(earlier).size());
  }

  PromptBuilder out;
  if (options.add_bos && earlier.empty()) out.literal(protocol::kBos);
  Renderer renderer(full, options, drop, out);
  for (size_t i = full.size() - num_to_render; i < full.size(); ++i) renderer.render(static_cast<int>(i));
  return {out.take()};
}

ThinkingMode thinking_mode_from_json(const Json& value) {
  if (value.is_string() && value.string() == "chat") return ThinkingMode::kChat;
  if (value.is_string() && value.string() == "thinking") return ThinkingMode::kThinking;
  fail("thinking_mode: {}, expected \"chat\" or \"thinking\"", value.dump());
}

ReasoningEffort reasoning_effort_from_json(const Json& value) {
  if (value.is_null()) return ReasoningEffort::kNone;
  if (value.is_string() && value.string() == "high") return ReasoningEffort::kHigh;
  if (value.is_string() && value.string() == "max") return ReasoningEffort::kMax;
  fail("reasoning_effort: {}, expected null, \"high\" or \"max\"", value.dump());
}

}  // namespace dsv4
