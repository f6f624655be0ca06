// UTF-8: validation, encoding of code points, and replacement of bad bytes exactly as Python's bytes.decode("utf-8", "replace") does it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace dsv4 {

// U+FFFD, which stands for bytes that are no UTF-8.
inline constexpr std::string_view kReplacementCharacter = "\xef\xbf\xbd";

// The sequence at one position of a byte string.
struct Utf8Step {
  enum class Kind : uint8_t {
    kValid,       // `length` bytes form one character
    kInvalid,     // `length` bytes (the longest prefix of any character, at least one byte) form none
    kIncomplete,  // the string ends after `length` bytes of what may become a character
  };
  Kind kind;
  size_t length;
};

// Classifies the sequence at `position`, which must be inside `bytes`. Surrogates, overlong forms and values above U+10FFFF are invalid.
Utf8Step utf8_step(std::string_view bytes, size_t position);

// The number of leading bytes that are valid UTF-8; equal to the size if everything is.
size_t utf8_valid_prefix(std::string_view bytes);

// The number of leading bytes up to a character cut off by the end: the size, or up to three bytes less.
size_t utf8_complete_prefix(std::string_view bytes);

// Appends a code point, which must be at most U+10FFFF and no surrogate.
void append_utf8(std::string& out, uint32_t code_point);

// Turns a stream of bytes into valid UTF-8. The concatenated results of all push() calls and one flush() are the replacing decode of the
// concatenated bytes.
class Utf8Stream {
 public:
  // The characters completed by `bytes`. An incomplete tail (at most three bytes) is held back.
  std::string push(std::string_view bytes);

  // The end of the stream: U+FFFD if a tail is held back, else nothing. The stream can be used anew.
  std::string flush();

 private:
  std::string tail_;
};

}  // namespace dsv4
