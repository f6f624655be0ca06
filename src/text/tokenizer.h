// The tokenizer: text to ids and back (spec section 7). Ids equal those of the tokenizers library for every valid text.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/pre_tokenizer.h"
#include "text/text_segment.h"
#include "text/token_table.h"
#include "text/tokenizer_json.h"

namespace dsv4 {

// What strings like "<｜User｜>" in the text become.
enum class SpecialTokens : uint8_t {
  kMatch,  // the added token of that name
  kPlain,  // ordinary text: no added token can come out
};

// Loaded once, then constant: every function may be called from several threads.
class Tokenizer {
 public:
  // Loads a tokenizer.json. Throws Error with file and field if it is not a complete, consistent tokenizer of this model.
  static Tokenizer from_file(const std::filesystem::path& path);

  // The same from memory; `source` names it in errors.
  static Tokenizer from_json(std::string_view json, const std::string& source);

  // The ids of `text`; nothing is put before or after it. Throws Error with the byte offset if the text is not valid UTF-8 or has 1 GiB.
  std::vector<int32_t> encode(std::string_view text, SpecialTokens mode = SpecialTokens::kMatch) const;

  // The ids of the segments' concatenation, with added tokens matched inside (runs of) trusted segments only. Equal to encode() of the
  // concatenated text where no untrusted text holds or completes an added token: ordinary text is cut and merged across segment bounds.
  std::vector<int32_t> encode(std::span<const TextSegment> segments) const;

  // The text of `ids`, added tokens included; bytes that are no UTF-8 become U+FFFD. Throws Error for an id outside the vocabulary.
  std::string decode(std::span<const int32_t> ids) const;

  // The bytes of one token, which need not be UTF-8 by themselves. Throws Error for an id outside the vocabulary.
  std::string_view token_bytes(int32_t id) const;

  // The id of an added token's content or of an ordinary token's bytes.
  std::optional<int32_t> id_of(std::string_view text) const;

  // The entry of added_tokens with this id; nullptr for an ordinary token.
  const AddedToken* added_token(int32_t id) const;

  int32_t vocab_size() const { return tokens_.size(); }
  int32_t bos_id() const { return bos_id_; }
  int32_t eos_id() const { return eos_id_; }

 private:
  class Run;

  Tokenizer(TokenizerData data, const std::string& source);

  // Cuts `text` at added tokens: `on_text` gets the stretches between, `on_token` the ids.
  template <typename OnText, typename OnToken>
  void cut_at_added_tokens(std::string_view text, OnText&& on_text, OnToken&& on_token) const;

  int32_t required_id(std::string_view content, const std::string& source) const;

  TokenTable tokens_;
  Bpe bpe_;
  PreTokenizer pre_tokenizer_;
  std::vector<AddedToken> added_tokens_;
  std::map<std::string, size_t, std::less<>> added_by_content_;  // index into added_tokens_
  std::map<int32_t, size_t> added_by_id_;
  // The library matches tokens that skip normalisation first and the others in what is left.
  AddedTokenMatcher first_pass_;
  AddedTokenMatcher second_pass_;
  int32_t bos_id_;
  int32_t eos_id_;
};

}  // namespace dsv4
