// Input: a tokenizer.json, a zero byte, a text. A file that loads must encode and decode without losing a byte; the text also goes through
// a tokenizer that is known to load.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "support/sample_tokenizer.h"
#include "text/streaming_decoder.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

namespace {

using dsv4::SpecialTokens;
using dsv4::TextSegment;
using dsv4::Tokenizer;

void check(bool condition) {
  if (!condition) std::abort();
}

void check_round_trips(const Tokenizer& tokenizer, std::string_view text) {
  const std::vector<int32_t> ids = tokenizer.encode(text);
  check(tokenizer.decode(ids) == text);

  dsv4::StreamingDecoder decoder(tokenizer);
  std::string streamed;
  for (const int32_t id : ids) streamed += decoder.push(id);
  check(streamed + decoder.flush() == text);

  const std::vector<int32_t> plain = tokenizer.encode(text, SpecialTokens::kPlain);
  check(tokenizer.decode(plain) == text);
  for (const int32_t id : plain) check(tokenizer.added_token(id) == nullptr);

  const std::string whole(text);
  check(tokenizer.encode(std::vector<TextSegment>{{whole, true}}) == ids);
  check(tokenizer.encode(std::vector<TextSegment>{{whole, false}}) == plain);
  const size_t middle = dsv4::utf8_complete_prefix(text.substr(0, text.size() / 2));
  const std::vector<TextSegment> halves = {{whole.substr(0, middle), true}, {whole.substr(middle), true}};
  check(tokenizer.encode(halves) == ids);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t end = input.find('\0');
  const std::string_view json = input.substr(0, end);
  const std::string_view text = end == std::string_view::npos ? std::string_view() : input.substr(end + 1);
  const std::string_view valid_text = text.substr(0, dsv4::utf8_valid_prefix(text));

  check_round_trips(dsv4::test::sample_tokenizer(), valid_text);
  try {
    const Tokenizer tokenizer = Tokenizer::from_json(json, "fuzz.json");
    check_round_trips(tokenizer, "hello wor<｜User｜> 12345 你好 🙂\n\n<think>");
    check_round_trips(tokenizer, valid_text);
  } catch (const dsv4::Error& error) {
    check(std::string_view(error.what()).find('\n') == std::string_view::npos);
  }
  return 0;
}
