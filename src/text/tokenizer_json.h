// Reading tokenizer.json (spec section 7): everything the tokenizer needs, checked.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/token_table.h"

namespace dsv4 {

// Limits on what a file may ask for.
inline constexpr int32_t kMaxVocabSize = 1 << 20;
inline constexpr size_t kMaxTokenBytes = 4096;
inline constexpr size_t kMaxTokenizerFileBytes = size_t{64} << 20;

// The content of a tokenizer.json. Ids are dense: every id in [0, tokens.size()) has exactly one token.
struct TokenizerData {
  TokenTable tokens;                     // bytes of every token, added tokens included
  std::array<int32_t, 256> byte_ids;     // the token of each single byte
  std::vector<BpeMerge> merges;          // in order of rank
  std::vector<AddedToken> added_tokens;  // in the file's order
};

// Parses and checks the text of a tokenizer.json: a byte-level BPE with the split expressions of this model and no options that would
// change its ids. Throws Error with `source` and the field at fault.
TokenizerData read_tokenizer_json(std::string_view json, const std::string& source);

}  // namespace dsv4
