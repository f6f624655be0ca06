// Input: lines for the batch functions, and all of it as a completion. Batch lines must give one JSON line whatever comes; the streaming
// parser must agree with the strict one on verdict and result, however the text is cut.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "text/batch.h"
#include "text/completion_parser.h"
#include "text/json.h"
#include "text/streaming_parser.h"

namespace {

using dsv4::Completion;
using dsv4::Json;
using dsv4::StreamEvent;
using dsv4::ThinkingMode;

void check(bool condition) {
  if (!condition) std::abort();
}

void check_output(const std::string& output) {
  check(output.find('\n') == std::string::npos);
  check(Json::parse(output).dump() == output);
}

void check_line(std::string_view line) {
  check_output(dsv4::encode_batch_line(line));
  check_output(dsv4::parse_batch_line(line));
}

// The text of a parse line, so that the fuzzer can also write completions in JSON.
std::optional<std::string> text_member(std::string_view line) {
  try {
    const Json value = Json::parse(line);
    const Json* text = value.find("text");
    return text != nullptr && text->is_string() ? std::optional(text->string()) : std::nullopt;
  } catch (const dsv4::Error&) {
    return std::nullopt;
  }
}

std::optional<Completion> parse_strictly(std::string_view text, ThinkingMode mode) {
  try {
    return dsv4::parse_completion(text, mode);
  } catch (const dsv4::Error&) {
    return std::nullopt;
  }
}

bool equal(const Completion& a, const Completion& b) {
  if (a.reasoning_content != b.reasoning_content || a.content != b.content || a.tool_calls.size() != b.tool_calls.size()) return false;
  for (size_t i = 0; i < a.tool_calls.size(); ++i) {
    if (a.tool_calls[i].name != b.tool_calls[i].name || a.tool_calls[i].arguments != b.tool_calls[i].arguments) return false;
  }
  return true;
}

// Pieces are of 1 to `max_piece` bytes, drawn from the text itself.
void check_stream(std::string_view text, ThinkingMode mode, size_t max_piece) {
  dsv4::StreamingParser parser(mode);
  Completion completion;
  const auto take = [&](const std::vector<StreamEvent>& events) {
    for (const StreamEvent& event : events) dsv4::append_event(completion, event);
  };
  for (size_t position = 0; position < text.size();) {
    const size_t size = 1 + static_cast<uint8_t>(text[position]) % max_piece;
    take(parser.push(text.substr(position, size)));
    position += size;
  }
  const std::vector<StreamEvent> last = parser.finish();
  take(last);
  check(!last.empty() && last.back().kind == StreamEvent::Kind::kDone);
  const std::optional<Completion> wanted = parse_strictly(text, mode);
  check(last.back().text.empty() == wanted.has_value());
  if (wanted.has_value()) check(equal(completion, *wanted));
}

void check_completion(std::string_view text) {
  for (const ThinkingMode mode : {ThinkingMode::kChat, ThinkingMode::kThinking}) {
    for (const size_t max_piece : {1, 7, 250}) check_stream(text, mode, max_piece);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view input(reinterpret_cast<const char*>(data), size);
  check_completion(input);
  while (!input.empty()) {
    const size_t end = std::min(input.find('\n'), input.size());
    const std::string_view line = input.substr(0, end);
    check_line(line);
    if (const auto text = text_member(line)) check_completion(*text);
    input.remove_prefix(std::min(end + 1, input.size()));
  }
  return 0;
}
