#include "text/batch.h"

#include "base/error.h"
#include "text/chat_encoding.h"
#include "text/completion_parser.h"
#include "text/json.h"

namespace dsv4 {
namespace {

// Runs `convert` on the line's value; a failure becomes an error object.
template <typename Convert>
std::string convert_line(std::string_view line, Convert&& convert) {
  Json result;
  try {
    const Json value = Json::parse(line);
    require(value.is_object(), "line: {}, expected an object", value.kind_name());
    result = convert(value);
  } catch (const Error& error) {
    result = Json(Json::Object{{"error", Json(std::string_view(error.what()))}});
  }
  return result.dump();
}

const Json& required_member(const Json& object, std::string_view key) {
  const Json* value = object.find(key);
  require(value != nullptr, "{}: missing", key);
  return *value;
}

bool flag_or(const Json& object, std::string_view key, bool fallback) {
  const Json* value = object.find(key);
  if (value == nullptr) return fallback;
  require(value->kind() == Json::Kind::kBool, "{}: {}, expected true or false", key, value->kind_name());
  return value->boolean();
}

Json encode_line(const Json& line) {
  ChatOptions options;
  options.thinking_mode = thinking_mode_from_json(required_member(line, "thinking_mode"));
  options.drop_thinking = flag_or(line, "drop_thinking", options.drop_thinking);
  options.add_bos = flag_or(line, "add_bos", options.add_bos);
  if (const Json* effort = line.find("reasoning_effort")) options.reasoning_effort = reasoning_effort_from_json(*effort);
  const Json no_context{Json::Array()};
  const Json* context = line.find("context");
  const Prompt prompt = encode_chat(required_member(line, "messages"), options, context == nullptr ? no_context : *context);
  return Json(Json::Object{{"prompt", Json(prompt.text())}});
}

Json parse_line(const Json& line) {
  const Json& text = required_member(line, "text");
  require(text.is_string(), "text: {}, expected a string", text.kind_name());
  return message_json(parse_completion(text.string(), thinking_mode_from_json(required_member(line, "thinking_mode"))));
}

}  // namespace

std::string encode_batch_line(std::string_view line) {
  return convert_line(line, encode_line);
}

std::string parse_batch_line(std::string_view line) {
  return convert_line(line, parse_line);
}

}  // namespace dsv4
