// The three regular expressions that cut text into pieces before BPE (spec section 7).
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

namespace dsv4 {

// The expressions S1, S2 and S3 as tokenizer.json spells them. A tokenizer with others is not this model's.
inline constexpr std::array<std::string_view, 3> kSplitPatterns = {
    R"(\p{N}{1,3})",
    "[一-龥぀-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|"
    "\\s+(?!\\S)|\\s+",
};

// Cuts text the way the tokenizers library does with kSplitPatterns (behaviour "Isolated"). Const use from several threads is safe.
class PreTokenizer {
 public:
  PreTokenizer();
  ~PreTokenizer();
  PreTokenizer(PreTokenizer&&) noexcept;
  PreTokenizer& operator=(PreTokenizer&&) noexcept;

  // Appends the pieces of `text`, which must be valid UTF-8, in order; they cover it without gaps. Each expression is applied to every
  // piece of the one before; matches and the text between them both become pieces.
  void split(std::string_view text, std::vector<std::string_view>& pieces) const;

 private:
  struct Expressions;
  std::unique_ptr<const Expressions> expressions_;
};

}  // namespace dsv4
