// A small tokenizer.json for the tests: three control tokens, 256 bytes, a few merges, the protocol's tokens.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "text/tokenizer.h"

namespace dsv4::test {

// Ids: 0 BOS, 1 EOS, 2 padding, 3 + b byte b, then kNumSampleMerges merges, then the protocol's tokens.
inline constexpr int kFirstByteId = 3;
inline constexpr int kFirstMergeId = kFirstByteId + 256;

// The file as a tree, to be changed by tests.
nlohmann::ordered_json sample_tokenizer_json();

// The tokenizer of the unchanged file.
const Tokenizer& sample_tokenizer();

// The spelling of bytes in the byte alphabet.
std::string spell(const std::string& bytes);

}  // namespace dsv4::test
