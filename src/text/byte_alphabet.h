// The byte alphabet of byte-level BPE (GPT-2's): tokenizer.json spells every byte of a token as one printable character.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace dsv4 {

// The bytes that `spelling` (valid UTF-8) stands for; nothing if it holds a character outside the alphabet.
// Bytes 0x21–0x7e, 0xa1–0xac and 0xae–0xff stand for themselves as code points, the other 68 in order for U+0100 and following.
std::optional<std::string> bytes_of_alphabet(std::string_view spelling);

}  // namespace dsv4
