// Text from tokens as they come.
#pragma once

#include <cstdint>
#include <string>

#include "text/tokenizer.h"
#include "text/utf8.h"

namespace dsv4 {

// Decodes one id after the other. What it returns never ends inside a UTF-8 character; all of it together is Tokenizer::decode() of all
// ids.
class StreamingDecoder {
 public:
  // `tokenizer` must outlive the decoder.
  explicit StreamingDecoder(const Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}

  // The characters completed by this token; often empty inside an emoji. Throws Error for an id outside the vocabulary.
  std::string push(int32_t id) { return stream_.push(tokenizer_->token_bytes(id)); }

  // The end of the text: U+FFFD if a character was left incomplete. The decoder can be used anew.
  std::string flush() { return stream_.flush(); }

 private:
  const Tokenizer* tokenizer_;
  Utf8Stream stream_;
};

}  // namespace dsv4
