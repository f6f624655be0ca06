#include "text/tokenizer.h"

#include <fstream>
#include <utility>

#include "base/error.h"
#include "text/protocol.h"
#include "text/utf8.h"

namespace dsv4 {
namespace {

constexpr size_t kMaxTextBytes = size_t{1} << 30;

// The whole file; refuses what cannot be a tokenizer.json by its size.
std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  require(file.good() && std::filesystem::is_regular_file(path), "{}: cannot be read", path.string());
  const auto num_bytes = static_cast<size_t>(file.tellg());
  require(num_bytes <= kMaxTokenizerFileBytes, "{}: {} bytes, expected at most {}", path.string(), num_bytes, kMaxTokenizerFileBytes);
  std::string text(num_bytes, '\0');
  file.seekg(0);
  file.read(text.data(), static_cast<std::streamsize>(num_bytes));
  require(file.gcount() == static_cast<std::streamsize>(num_bytes), "{}: ends after {} of {} bytes", path.string(), file.gcount(),
          num_bytes);
  return text;
}

AddedTokenMatcher make_matcher(const std::vector<AddedToken>& tokens, bool normalized) {
  std::vector<std::pair<std::string, int32_t>> contents;
  for (const AddedToken& token : tokens) {
    if (token.normalized == normalized) contents.emplace_back(token.content, token.id);
  }
  return AddedTokenMatcher(std::move(contents));
}

void require_valid_text(std::string_view text, std::string_view name) {
  const size_t valid = utf8_valid_prefix(text);
  require(valid == text.size(), "{}: invalid UTF-8 at byte {}", name, valid);
}

// Calls on_text and on_token for the stretches between matches and for the matches, in order.
template <typename OnText, typename OnToken>
void cut_at(const AddedTokenMatcher& matcher, std::string_view text, OnText&& on_text, OnToken&& on_token) {
  size_t position = 0;
  while (const auto match = matcher.find(text, position)) {
    if (match->position > position) on_text(text.substr(position, match->position - position));
    on_token(match->id);
    position = match->position + match->length;
  }
  if (position < text.size()) on_text(text.substr(position));
}

}  // namespace

// Encodes stretches of ordinary text, keeping its working memory between them.
class Tokenizer::Run {
 public:
  explicit Run(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  void encode(std::string_view text) {
    pieces_.clear();
    tokenizer_.pre_tokenizer_.split(text, pieces_);
    for (const std::string_view piece : pieces_) tokenizer_.bpe_.encode(piece, scratch_, ids);
  }

  std::vector<int32_t> ids;

 private:
  const Tokenizer& tokenizer_;
  std::vector<std::string_view> pieces_;
  Bpe::Scratch scratch_;
};

Tokenizer Tokenizer::from_file(const std::filesystem::path& path) {
  return from_json(read_file(path), path.string());
}

Tokenizer Tokenizer::from_json(std::string_view json, const std::string& source) {
  return Tokenizer(read_tokenizer_json(json, source), source);
}

Tokenizer::Tokenizer(TokenizerData data, const std::string& source)
    : tokens_(std::move(data.tokens)),
      bpe_(data.byte_ids, std::move(data.merges)),
      added_tokens_(std::move(data.added_tokens)),
      first_pass_(make_matcher(added_tokens_, false)),
      second_pass_(make_matcher(added_tokens_, true)) {
  for (size_t i = 0; i < added_tokens_.size(); ++i) {
    added_by_content_.emplace(added_tokens_[i].content, i);
    added_by_id_.emplace(added_tokens_[i].id, i);
  }
  bos_id_ = required_id(protocol::kBos, source);
  eos_id_ = required_id(protocol::kEos, source);
}

int32_t Tokenizer::required_id(std::string_view content, const std::string& source) const {
  const auto found = added_by_content_.find(content);
  require(found != added_by_content_.end(), "{}: added_tokens: no {}", source, content);
  return added_tokens_[found->second].id;
}

template <typename OnText, typename OnToken>
void Tokenizer::cut_at_added_tokens(std::string_view text, OnText&& on_text, OnToken&& on_token) const {
  cut_at(
      first_pass_, text, [&](std::string_view between) { cut_at(second_pass_, between, on_text, on_token); }, on_token);
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, SpecialTokens mode) const {
  require(text.size() < kMaxTextBytes, "text: {} bytes, expected fewer than {}", text.size(), kMaxTextBytes);
  require_valid_text(text, "text");
  Run run(*this);
  if (mode == SpecialTokens::kPlain) {
    run.encode(text);
  } else {
    cut_at_added_tokens(
        text, [&](std::string_view between) { run.encode(between); }, [&](int32_t id) { run.ids.push_back(id); });
  }
  return std::move(run.ids);
}

std::vector<int32_t> Tokenizer::encode(std::span<const TextSegment> segments) const {
  Run run(*this);
  std::string ordinary;  // text since the last added token, trusted and not: its pieces may cross segment bounds
  const auto flush = [&] {
    run.encode(ordinary);
    ordinary.clear();
  };
  size_t num_bytes = 0;
  std::string trusted;
  for (size_t i = 0; i < segments.size(); ++i) {
    const std::string& text = segments[i].text;
    num_bytes += text.size();
    require(num_bytes < kMaxTextBytes, "prompt: {} bytes or more, expected fewer than {}", num_bytes, kMaxTextBytes);
    require_valid_text(text, fmt::format("prompt segment {}", i));
    if (!segments[i].trusted) {
      ordinary += text;
      continue;
    }
    trusted += text;
    if (i + 1 < segments.size() && segments[i + 1].trusted) continue;
    cut_at_added_tokens(
        trusted, [&](std::string_view between) { ordinary += between; },
        [&](int32_t id) {
          flush();
          run.ids.push_back(id);
        });
    trusted.clear();
  }
  flush();
  return std::move(run.ids);
}

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  std::string bytes;
  for (const int32_t id : ids) bytes += token_bytes(id);
  Utf8Stream stream;
  std::string text = stream.push(bytes);
  return text + stream.flush();
}

std::string_view Tokenizer::token_bytes(int32_t id) const {
  require(id >= 0 && id < vocab_size(), "token id {}, expected 0 to {}", id, vocab_size() - 1);
  return tokens_[id];
}

std::optional<int32_t> Tokenizer::id_of(std::string_view text) const {
  if (const auto added = added_by_content_.find(text); added != added_by_content_.end()) return added_tokens_[added->second].id;
  const int32_t id = tokens_.find(text);
  return id < 0 ? std::nullopt : std::optional(id);
}

const AddedToken* Tokenizer::added_token(int32_t id) const {
  const auto found = added_by_id_.find(id);
  return found == added_by_id_.end() ? nullptr : &added_tokens_[found->second];
}

}  // namespace dsv4
