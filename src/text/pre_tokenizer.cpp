#include "text/pre_tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <cstdint>
#include <string>
#include <utility>

#include "base/error.h"
#include "text/unicode_additions.h"

namespace dsv4 {
namespace {

// Deletes PCRE2's objects.
struct Pcre2Deleter {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};
using Code = std::unique_ptr<pcre2_code, Pcre2Deleter>;
using MatchData = std::unique_ptr<pcre2_match_data, Pcre2Deleter>;
using MatchContext = std::unique_ptr<pcre2_match_context, Pcre2Deleter>;

// White space is Unicode's White_Space, as in Oniguruma; PCRE2's own \s also has U+180E.
constexpr std::string_view kWhiteSpace =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";

void replace_all(std::string& text, std::string_view from, const std::string& to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) text.replace(at, from.size(), to);
}

// The expression in PCRE2's terms: the same language that Oniguruma reads in `pattern`. \p{N} stands alone in S1, the other properties
// stand inside character classes.
std::string translate(std::string_view pattern) {
  std::string text(pattern);
  replace_all(text, R"(\p{N})", fmt::format(R"([\p{{N}}{}])", kAddedNumbers));
  replace_all(text, R"(\p{L})", fmt::format(R"(\p{{L}}{})", kAddedLetters));
  replace_all(text, R"(\p{M})", fmt::format(R"(\p{{M}}{})", kAddedMarks));
  replace_all(text, R"(\p{P})", fmt::format(R"(\p{{P}}{})", kAddedPunctuation));
  replace_all(text, R"(\p{S})", fmt::format(R"(\p{{S}}{})", kAddedSymbols));
  replace_all(text, R"(\s)", fmt::format("[{}]", kWhiteSpace));
  replace_all(text, R"(\S)", fmt::format("[^{}]", kWhiteSpace));
  return text;
}

Code compile(std::string_view pattern) {
  const std::string text = translate(pattern);
  int error = 0;
  PCRE2_SIZE offset = 0;
  Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), PCRE2_UTF, &error, &offset, nullptr));
  require(code != nullptr, "pre-tokeniser: PCRE2 refuses expression {} (error {} at {})", pattern, error, offset);
  // Where the system forbids executable memory, pcre2_match() interprets instead: slower, same matches.
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
  return code;
}

// Applies one expression to `text` and calls `emit` for every match and every gap, in order.
template <typename Emit>
void for_each_piece(const pcre2_code* code, pcre2_match_data* data, pcre2_match_context* context, std::string_view text, Emit&& emit) {
  size_t position = 0;
  while (position < text.size()) {
    const int status =
        pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), position, PCRE2_NO_UTF_CHECK, data, context);
    if (status == PCRE2_ERROR_NOMATCH) break;
    require(status > 0, "pre-tokeniser: PCRE2 match error {} at byte {} of a piece of {} bytes", status, position, text.size());
    // Copied: emit() may match again with the same match data.
    const size_t begin = pcre2_get_ovector_pointer(data)[0];
    const size_t end = pcre2_get_ovector_pointer(data)[1];
    if (begin > position) emit(text.substr(position, begin - position));
    emit(text.substr(begin, end - begin));  // never empty: no alternative of the expressions is
    position = end;
  }
  if (position < text.size()) emit(text.substr(position));
}

}  // namespace

struct PreTokenizer::Expressions {
  std::array<Code, kSplitPatterns.size()> codes;
  MatchContext context;
};

PreTokenizer::PreTokenizer() {
  auto expressions = std::make_unique<Expressions>();
  for (size_t i = 0; i < kSplitPatterns.size(); ++i) expressions->codes[i] = compile(kSplitPatterns[i]);
  expressions->context.reset(pcre2_match_context_create(nullptr));
  require(expressions->context != nullptr, "pre-tokeniser: PCRE2 is out of memory");
  // A run of white space is tried once in full length before it is cut; the default limit of ten million steps would refuse long runs.
  pcre2_set_match_limit(expressions->context.get(), UINT32_MAX);
  expressions_ = std::move(expressions);
}

PreTokenizer::~PreTokenizer() = default;
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;
PreTokenizer& PreTokenizer::operator=(PreTokenizer&&) noexcept = default;

void PreTokenizer::split(std::string_view text, std::vector<std::string_view>& pieces) const {
  const MatchData data(pcre2_match_data_create(1, nullptr));
  require(data != nullptr, "pre-tokeniser: PCRE2 is out of memory");
  const auto cut = [&](size_t stage, std::string_view piece, auto&& emit) {
    for_each_piece(expressions_->codes[stage].get(), data.get(), expressions_->context.get(), piece, emit);
  };
  cut(0, text, [&](std::string_view after_numbers) {
    cut(1, after_numbers, [&](std::string_view after_cjk) { cut(2, after_cjk, [&](std::string_view piece) { pieces.push_back(piece); }); });
  });
}

}  // namespace dsv4
