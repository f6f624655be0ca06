#include "text/streaming_parser.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "text/json.h"
#include "text/protocol.h"
#include "text/utf8.h"

namespace dsv4 {
namespace {

namespace grammar = completion_grammar;
using Kind = StreamEvent::Kind;

constexpr std::string_view kOpeningMarkup = "<｜DSML｜";
constexpr std::string_view kClosingMarkup = "</｜DSML｜";

// All that must not reach a reader of reasoning or content.
constexpr std::array<std::string_view, 9> kTextMarkers = {
    protocol::kEndThink,  grammar::kToolCallsStart, protocol::kEos, protocol::kBos,  protocol::kThink,
    protocol::kToolCalls, kOpeningMarkup,           kClosingMarkup, protocol::kDsml,
};
constexpr std::array<std::string_view, 2> kInvokeTags = {">\n<｜DSML｜invoke", ">\n</｜DSML｜tool_calls>"};
constexpr std::array<std::string_view, 2> kParameterTags = {">\n<｜DSML｜parameter", ">\n</｜DSML｜invoke"};
constexpr std::array<std::string_view, 1> kEosTag = {protocol::kEos};
constexpr std::array<std::string_view, 2> kHeaderEnds = {protocol::kParameter, protocol::kEndInvoke};
constexpr std::array<std::string_view, 3> kKeyEnds = {grammar::kStringTrue, grammar::kStringFalse, grammar::kParameterEnd};
constexpr std::string_view kKeyStart = " name=\"";
// The "<" before the end of a parameter, perhaps with a line feed after it, is not part of the value. Without "<" the end is malformed.
constexpr std::array<std::string_view, 3> kValueEnds = {"</｜DSML｜parameter", "<\n/｜DSML｜parameter", grammar::kParameterEnd};

}  // namespace

void append_event(Completion& completion, const StreamEvent& event) {
  switch (event.kind) {
    case Kind::kReasoning:
      completion.reasoning_content += event.text;
      return;
    case Kind::kContent:
      completion.content += event.text;
      return;
    case Kind::kToolCallBegin:
      completion.tool_calls.push_back({event.text, ""});
      return;
    case Kind::kArguments:
      completion.tool_calls.back().arguments += event.text;
      return;
    case Kind::kToolCallEnd:
    case Kind::kDone:
      return;
  }
}

StreamingParser::StreamingParser(ThinkingMode mode) : state_(mode == ThinkingMode::kThinking ? State::kReasoning : State::kContent) {}

std::vector<StreamEvent> StreamingParser::push(std::string_view piece) {
  buffer_ += piece;
  while (step()) {
  }
  buffer_.erase(0, position_);
  scanned_ -= position_;
  position_ = 0;
  return std::exchange(events_, {});
}

std::vector<StreamEvent> StreamingParser::finish() {
  finish_open_parts();
  emit(Kind::kDone, error_);
  return std::exchange(events_, {});
}

bool StreamingParser::step() {
  if (rest().empty()) return false;
  switch (state_) {
    case State::kReasoning:
    case State::kContent:
      return step_text();
    case State::kBeforeTag:
      return step_tag(kInvokeTags);
    case State::kInvokeHeader:
      return step_invoke_header();
    case State::kParameterHeader:
      return step_parameter_header();
    case State::kParameterValue:
      return step_parameter_value();
    case State::kAfterParameter:
      return step_tag(kParameterTags);
    case State::kAfterCalls:
      return step_tag(kEosTag);
    case State::kEnded:
      malformed("text after the end-of-sentence token");
      consume_to(buffer_.size());
      return false;
    case State::kSkipping:
      consume_to(buffer_.size());
      return false;
  }
  return false;
}

// The leftmost marker (of two at one place the longer), looking no further than a place where one may have begun.
StreamingParser::Found StreamingParser::find(std::span<const std::string_view> markers) {
  const std::string_view text = buffer_;
  for (; scanned_ < text.size(); ++scanned_) {
    const std::string_view here = text.substr(scanned_);
    std::string_view longest;
    for (const std::string_view marker : markers) {
      if (here.front() != marker.front()) continue;
      if (here.starts_with(marker)) {
        if (marker.size() > longest.size()) longest = marker;
      } else if (marker.starts_with(here)) {
        return {scanned_, {}};
      }
    }
    if (!longest.empty()) return {scanned_, longest};
  }
  return {text.size(), {}};
}

void StreamingParser::consume_to(size_t position) {
  position_ = scanned_ = position;
}

void StreamingParser::emit(Kind kind, std::string text) {
  events_.push_back({kind, std::move(text)});
}

// Sends the text up to `end` as reasoning or content.
void StreamingParser::emit_text(size_t end) {
  const Kind kind = state_ == State::kReasoning ? Kind::kReasoning : Kind::kContent;
  if (end > position_) emit(kind, buffer_.substr(position_, end - position_));
  consume_to(end);
}

bool StreamingParser::step_text() {
  const bool in_reasoning = state_ == State::kReasoning;
  const auto [position, marker] = find(kTextMarkers);
  if (marker.empty()) {
    emit_text(position_ + utf8_complete_prefix(rest().substr(0, position - position_)));
    return false;
  }
  emit_text(position);
  consume_to(position + marker.size());
  if (marker == grammar::kToolCallsStart || marker == protocol::kToolCalls) {
    if (in_reasoning) malformed("tool calls inside the reasoning");
    if (marker == protocol::kToolCalls) malformed("no empty line before the tool calls");
    state_ = State::kBeforeTag;
  } else if (marker == protocol::kEos) {
    if (in_reasoning) malformed("the reasoning has no </think>");
    state_ = State::kEnded;
  } else if (marker == protocol::kEndThink && in_reasoning) {
    state_ = State::kContent;
  } else if (marker == protocol::kEndThink || marker == protocol::kThink || marker == protocol::kBos) {
    malformed(in_reasoning ? "a control token inside the reasoning" : "a control token inside the content");
  } else {
    skip_rest(in_reasoning ? "tool markup inside the reasoning" : "tool markup inside the content");
  }
  return true;
}

// One of `tags` must follow at once.
bool StreamingParser::step_tag(std::span<const std::string_view> tags) {
  for (const std::string_view tag : tags) {
    if (rest().starts_with(tag)) {
      consume_to(position_ + tag.size());
      enter_after_tag(tag);
      return true;
    }
    if (tag.starts_with(rest())) return false;
  }
  skip_rest(state_ == State::kAfterCalls ? "text after the tool calls" : "malformed tag in the tool calls");
  return true;
}

void StreamingParser::enter_after_tag(std::string_view tag) {
  if (tag == kInvokeTags[0]) {
    state_ = State::kInvokeHeader;
  } else if (tag == kInvokeTags[1]) {
    state_ = State::kAfterCalls;
  } else if (tag == kParameterTags[0]) {
    state_ = State::kParameterHeader;
  } else if (tag == kParameterTags[1]) {
    end_call();
    state_ = State::kBeforeTag;
  } else {
    state_ = State::kEnded;
  }
}

bool StreamingParser::step_invoke_header() {
  const auto [position, marker] = find(kHeaderEnds);
  if (marker.empty()) return false;
  const auto name = grammar::invoke_name(rest().substr(0, position - position_));
  if (!name.has_value()) {
    skip_rest("malformed invoke tag");
    return true;
  }
  begin_call(*name);
  consume_to(position + marker.size());
  if (marker == protocol::kParameter) {
    state_ = State::kParameterHeader;
  } else {
    end_call();
    state_ = State::kBeforeTag;
  }
  return true;
}

void StreamingParser::begin_call(std::string_view name) {
  emit(Kind::kToolCallBegin, std::string(name));
  emit(Kind::kArguments, "{");
  call_open_ = true;
  keys_.clear();
}

void StreamingParser::end_call() {
  emit(Kind::kArguments, string_open_ ? "\"}" : "}");
  emit(Kind::kToolCallEnd, "");
  call_open_ = string_open_ = false;
}

bool StreamingParser::step_parameter_header() {
  if (!rest().starts_with(kKeyStart)) {
    if (kKeyStart.starts_with(rest())) return false;
    skip_rest("malformed parameter tag");
    return true;
  }
  const size_t key_start = position_ + kKeyStart.size();
  scanned_ = std::max(scanned_, key_start);
  const auto [position, marker] = find(kKeyEnds);
  if (marker.empty()) return false;
  std::string key = buffer_.substr(key_start, position - key_start);
  if (marker == grammar::kParameterEnd || keys_.contains(key)) {
    skip_rest(marker == grammar::kParameterEnd ? "malformed parameter tag" : "a parameter appears twice");
    return true;
  }
  std::string start;
  grammar::begin_argument(start, key, keys_.empty());
  keys_.insert(std::move(key));
  value_is_string_ = string_open_ = marker == grammar::kStringTrue;
  if (string_open_) start += '"';
  emit(Kind::kArguments, std::move(start));
  consume_to(position + marker.size());
  state_ = State::kParameterValue;
  return true;
}

void StreamingParser::emit_value(std::string_view value) {
  std::string text;
  if (value_is_string_) {
    append_json_escaped(text, value);
  } else {
    text = value;
  }
  if (!text.empty()) emit(Kind::kArguments, std::move(text));
}

bool StreamingParser::step_parameter_value() {
  const auto [position, marker] = find(kValueEnds);
  const std::string_view value = rest().substr(0, position - position_);
  if (marker.empty()) {
    const size_t num_bytes = utf8_complete_prefix(value);
    emit_value(value.substr(0, num_bytes));
    consume_to(position_ + num_bytes);
    return false;
  }
  emit_value(value);
  if (marker == grammar::kParameterEnd) {
    skip_rest("malformed end of a parameter");
    return true;
  }
  if (std::exchange(string_open_, false)) emit(Kind::kArguments, "\"");
  consume_to(position + marker.size());
  state_ = State::kAfterParameter;
  return true;
}

// What the end of the text means in each state. The official parser, and so this one, accepts an end in some places inside the calls.
void StreamingParser::finish_open_parts() {
  if (state_ == State::kReasoning || state_ == State::kContent) {
    // What is left in the buffer may have become a tag or is half a character. Only the line feeds before a tag are worth keeping.
    emit_text(position_ + std::min(rest().find_first_not_of('\n'), rest().size()));
  }
  switch (state_) {
    case State::kReasoning:
      malformed("the text ends inside the reasoning");
      break;
    case State::kContent:
      malformed("the answer has no end-of-sentence token");
      break;
    case State::kInvokeHeader:
      if (const auto name = grammar::invoke_name(rest())) {
        begin_call(*name);
      } else {
        malformed("the text ends inside a tool call");
      }
      break;
    case State::kAfterParameter:
      if (rest() != ">\n") malformed("the text ends inside a tool call");
      break;
    case State::kParameterHeader:
    case State::kParameterValue:
      malformed("the text ends inside a tool call");
      break;
    case State::kBeforeTag:
    case State::kAfterCalls:
      if (!rest().empty()) malformed("the text ends inside the tool calls");
      break;
    case State::kEnded:
    case State::kSkipping:
      break;
  }
  if (call_open_) end_call();
}

void StreamingParser::malformed(std::string_view message) {
  if (error_.empty()) error_ = message;
}

void StreamingParser::skip_rest(std::string_view message) {
  malformed(message);
  if (call_open_) end_call();
  state_ = State::kSkipping;
}

}  // namespace dsv4
