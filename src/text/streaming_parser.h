// Parsing a completion while it is being written (spec 6.4): what a server sends on, without ever leaking markup.
#pragma once

#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/chat_encoding.h"
#include "text/completion_parser.h"

namespace dsv4 {

// One thing that happened. Texts are deltas and end between UTF-8 characters.
struct StreamEvent {
  enum class Kind : uint8_t {
    kReasoning,      // more reasoning
    kContent,        // more of the answer
    kToolCallBegin,  // a call starts; text is the function's name
    kArguments,      // more of the current call's arguments (JSON text)
    kToolCallEnd,    // the current call's arguments are complete
    kDone,           // the end, sent once by finish(); text is empty, or says what was wrong with the completion
  };
  Kind kind;
  std::string text;
};

// Adds an event to a message under construction.
void append_event(Completion& completion, const StreamEvent& event);

// Takes the model's text (special tokens kept) in pieces of any size. On text that parse_completion() accepts the events add up to its
// result, whatever the pieces. Where parse_completion() throws, nothing is thrown here; kDone carries the error, and what was understood
// stands:
//  * `<think>`, `</think>` and BOS in the wrong place are left out;
//  * tool calls that start inside the reasoning or without the empty line before them are parsed as tool calls;
//  * EOS ends the completion wherever it comes outside of tool calls;
//  * other malformed markup is dropped with everything after it; a call cut short is closed, so that its arguments stay JSON if they can;
//  * a text that just stops (a length limit) keeps what came, less a tag begun at its very end.
class StreamingParser {
 public:
  explicit StreamingParser(ThinkingMode mode);

  std::vector<StreamEvent> push(std::string_view piece);

  // The end of the text; nothing may be pushed afterwards. The last event is kDone.
  std::vector<StreamEvent> finish();

  // The first thing that was wrong so far; empty if nothing was.
  const std::string& error() const { return error_; }

 private:
  enum class State : uint8_t {
    kReasoning,
    kContent,
    kBeforeTag,        // after the rest of a tag: next invoke or the end of the calls
    kInvokeHeader,     // collecting the name
    kParameterHeader,  // collecting key and kind
    kParameterValue,
    kAfterParameter,  // after the rest of a tag: next parameter or the end of the invoke
    kAfterCalls,      // EOS or nothing
    kEnded,           // after EOS: nothing may come
    kSkipping,        // after malformed markup: everything is dropped
  };
  // A marker in the buffer. `marker` is empty if there is none; then `position` is where one may have begun, or the end.
  struct Found {
    size_t position;
    std::string_view marker;
  };

  // Each handles what the buffer holds in its state; false if it needs more text.
  bool step();
  bool step_text();
  bool step_tag(std::span<const std::string_view> tags);
  bool step_invoke_header();
  bool step_parameter_header();
  bool step_parameter_value();

  void enter_after_tag(std::string_view tag);
  void begin_call(std::string_view name);
  void end_call();
  void finish_open_parts();

  Found find(std::span<const std::string_view> markers);
  std::string_view rest() const { return std::string_view(buffer_).substr(position_); }
  void consume_to(size_t position);
  void emit(StreamEvent::Kind kind, std::string text);
  void emit_text(size_t end);
  void emit_value(std::string_view value);
  void malformed(std::string_view message);
  // Gives up on the markup: closes an open call and drops the rest.
  void skip_rest(std::string_view message);

  State state_;
  std::string buffer_;
  size_t position_ = 0;  // everything before is done with
  size_t scanned_ = 0;   // no marker starts before; at least position_
  std::string error_;
  std::vector<StreamEvent> events_;
  bool call_open_ = false;
  bool string_open_ = false;  // inside the quotes of a string value
  bool value_is_string_ = false;
  std::set<std::string> keys_;  // of the open call
};

}  // namespace dsv4
