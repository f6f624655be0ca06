#include "text/tokenizer_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "base/error.h"
#include "text/byte_alphabet.h"
#include "text/json.h"
#include "text/pre_tokenizer.h"
#include "text/utf8.h"

namespace dsv4 {
namespace {

// What the file says, before its parts are checked against each other.
struct RawTokenizer {
  std::vector<std::pair<std::string, int32_t>> vocab;       // spelling, id
  std::vector<std::pair<std::string, std::string>> merges;  // spellings
  std::vector<AddedToken> added_tokens;
};

// The start of a value's dump, for an error line that is not endless.
std::string shortened(const std::string& dump) {
  constexpr size_t kMaxShown = 60;
  const std::string shown = dump.substr(0, utf8_complete_prefix(std::string_view(dump).substr(0, kMaxShown)));
  return shown.size() < dump.size() ? shown + "…" : shown;
}

// A string of the file for an error line: quoted, on one line.
std::string quoted(std::string_view text) {
  std::string out;
  append_json_string(out, text);
  return shortened(out);
}

// Reads a value that must equal `wanted`, given as Python would dump it.
void expect_value(JsonReader& reader, const std::string& field, std::string_view wanted) {
  const std::string found = reader.read_value().dump();
  if (found != wanted) reader.fail_here(fmt::format("{}: {}, expected {}", field, shortened(found), wanted));
}

// Reads a value that must be null or the empty string.
void expect_null_or_empty(JsonReader& reader, const std::string& field) {
  const Json value = reader.read_value();
  if (value.truthy()) reader.fail_here(fmt::format("{}: {}, expected null", field, shortened(value.dump())));
}

// One member of an object read as a tree, compared with its dump.
void expect_member(const JsonReader& reader, const Json& object, const std::string& field, std::string_view key, std::string_view wanted) {
  const Json* value = object.find(key);
  const std::string found = value == nullptr ? "nothing" : value->dump();
  if (found != wanted) reader.fail_here(fmt::format("{}.{}: {}, expected {}", field, key, shortened(found), wanted));
}

void read_normalizer(JsonReader& reader) {
  const Json value = reader.read_value();
  if (value.is_null()) return;
  expect_member(reader, value, "normalizer", "type", "\"Sequence\"");
  expect_member(reader, value, "normalizer", "normalizers", "[]");
}

void read_pre_tokenizer(JsonReader& reader) {
  const Json value = reader.read_value();
  expect_member(reader, value, "pre_tokenizer", "type", "\"Sequence\"");
  const Json* stages = value.find("pretokenizers");
  if (stages == nullptr || !stages->is_array() || stages->array().size() != kSplitPatterns.size() + 1) {
    reader.fail_here(fmt::format("pre_tokenizer.pretokenizers: expected {} Split stages and one ByteLevel stage", kSplitPatterns.size()));
  }
  for (size_t i = 0; i < kSplitPatterns.size(); ++i) {
    const Json& split = stages->array()[i];
    const std::string field = fmt::format("pre_tokenizer.pretokenizers[{}]", i);
    expect_member(reader, split, field, "type", "\"Split\"");
    expect_member(reader, split, field, "behavior", "\"Isolated\"");
    expect_member(reader, split, field, "invert", "false");
    const Json* pattern = split.find("pattern");
    const Json* regex = pattern == nullptr ? nullptr : pattern->find("Regex");
    if (regex == nullptr || !regex->is_string() || regex->string() != kSplitPatterns[i]) {
      const std::string found = regex == nullptr ? "nothing" : shortened(regex->dump());
      reader.fail_here(fmt::format("{}.pattern.Regex: {}, expected this model's expression {}", field, found, quoted(kSplitPatterns[i])));
    }
  }
  const Json& byte_level = stages->array().back();
  const std::string field = fmt::format("pre_tokenizer.pretokenizers[{}]", kSplitPatterns.size());
  expect_member(reader, byte_level, field, "type", "\"ByteLevel\"");
  expect_member(reader, byte_level, field, "add_prefix_space", "false");
  expect_member(reader, byte_level, field, "use_regex", "false");
}

void read_added_token(JsonReader& reader, RawTokenizer& raw) {
  const std::string field = fmt::format("added_tokens[{}]", raw.added_tokens.size());
  AddedToken token{"", -1, true, false};
  reader.read_object([&](const std::string& key) {
    if (key == "id") {
      token.id = static_cast<int32_t>(reader.read_integer(0, kMaxVocabSize - 1));
    } else if (key == "content") {
      token.content = reader.read_string();
    } else if (key == "normalized") {
      token.normalized = reader.read_bool();
    } else if (key == "special") {
      token.special = reader.read_bool();
    } else if (key == "single_word" || key == "lstrip" || key == "rstrip") {
      if (reader.read_bool()) reader.fail_here(fmt::format("{}.{}: true, expected false (no token of this model has it)", field, key));
    } else {
      reader.skip_value();
    }
  });
  if (token.id < 0) reader.fail_here(fmt::format("{}.id: missing", field));
  if (token.content.empty() || token.content.size() > kMaxTokenBytes) {
    reader.fail_here(fmt::format("{}.content: {} bytes, expected 1 to {}", field, token.content.size(), kMaxTokenBytes));
  }
  if (raw.added_tokens.size() >= static_cast<size_t>(kMaxVocabSize)) reader.fail_here("added_tokens: too many");
  raw.added_tokens.push_back(std::move(token));
}

void read_vocab(JsonReader& reader, RawTokenizer& raw) {
  reader.read_object([&](const std::string& spelling) {
    // A byte is spelt with at most two.
    if (spelling.empty() || spelling.size() > 2 * kMaxTokenBytes) {
      reader.fail_here(
          fmt::format("model.vocab: {} has {} bytes, expected 1 to {}", quoted(spelling), spelling.size(), 2 * kMaxTokenBytes));
    }
    if (raw.vocab.size() >= static_cast<size_t>(kMaxVocabSize)) reader.fail_here("model.vocab: too many entries");
    raw.vocab.emplace_back(spelling, static_cast<int32_t>(reader.read_integer(0, kMaxVocabSize - 1)));
  });
}

// A merge is spelt "left right" in older files and ["left", "right"] in newer ones.
void read_merge(JsonReader& reader, RawTokenizer& raw) {
  const std::string field = fmt::format("model.merges[{}]", raw.merges.size());
  if (raw.merges.size() >= static_cast<size_t>(kMaxVocabSize)) reader.fail_here("model.merges: too many");
  if (reader.peek() == Json::Kind::kString) {
    const std::string text = reader.read_string();
    const size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
      reader.fail_here(fmt::format("{}: {}, expected two tokens with one space between", field, quoted(text)));
    }
    raw.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
    return;
  }
  std::vector<std::string> parts;
  reader.read_array([&] {
    if (parts.size() == 2) reader.fail_here(fmt::format("{}: more than two tokens", field));
    parts.push_back(reader.read_string());
  });
  if (parts.size() != 2) reader.fail_here(fmt::format("{}: {} tokens, expected two", field, parts.size()));
  raw.merges.emplace_back(std::move(parts[0]), std::move(parts[1]));
}

void read_model(JsonReader& reader, RawTokenizer& raw) {
  reader.read_object([&](const std::string& key) {
    const std::string field = "model." + key;
    if (key == "type") {
      expect_value(reader, field, "\"BPE\"");
    } else if (key == "dropout" || key == "unk_token") {
      expect_value(reader, field, "null");
    } else if (key == "byte_fallback" || key == "ignore_merges") {
      expect_value(reader, field, "false");
    } else if (key == "continuing_subword_prefix" || key == "end_of_word_suffix") {
      expect_null_or_empty(reader, field);
    } else if (key == "vocab") {
      read_vocab(reader, raw);
    } else if (key == "merges") {
      reader.read_array([&] { read_merge(reader, raw); });
    } else {
      reader.skip_value();
    }
  });
}

RawTokenizer read_raw(std::string_view json, const std::string& source) {
  RawTokenizer raw;
  JsonReader reader(json, source);
  std::unordered_set<std::string> seen;
  reader.read_object([&](const std::string& key) {
    if (!seen.insert(key).second) reader.fail_here(fmt::format("{} appears twice", quoted(key)));
    if (key == "truncation" || key == "padding") {
      expect_value(reader, key, "null");
    } else if (key == "added_tokens") {
      reader.read_array([&] { read_added_token(reader, raw); });
    } else if (key == "normalizer") {
      read_normalizer(reader);
    } else if (key == "pre_tokenizer") {
      read_pre_tokenizer(reader);
    } else if (key == "post_processor") {
      // The ByteLevel post-processor only trims offsets. Others would add tokens; BOS comes from the chat encoding.
      const Json value = reader.read_value();
      if (!value.is_null()) expect_member(reader, value, key, "type", "\"ByteLevel\"");
    } else if (key == "decoder") {
      expect_member(reader, reader.read_value(), key, "type", "\"ByteLevel\"");
    } else if (key == "model") {
      read_model(reader, raw);
    } else {
      reader.skip_value();
    }
  });
  reader.finish();
  for (const char* field : {"added_tokens", "pre_tokenizer", "model"}) {
    require(seen.contains(field), "{}: {}: missing", source, field);
  }
  return raw;
}

// The bytes of a token spelt in the byte alphabet.
std::string decode_spelling(const std::string& source, std::string_view field, std::string_view spelling) {
  std::optional<std::string> bytes = bytes_of_alphabet(spelling);
  require(bytes.has_value(), "{}: {}: {} has a character outside the byte alphabet and is no added token", source, field, quoted(spelling));
  return std::move(*bytes);
}

// Brings vocabulary and added tokens together by id.
class TokenCollector {
 public:
  TokenCollector(const RawTokenizer& raw, const std::string& source) : source_(source) {
    for (const AddedToken& token : raw.added_tokens) {
      const auto [found, inserted] = added_.emplace(token.content, token.id);
      require(inserted, "{}: added_tokens: {} appears twice (ids {} and {})", source, quoted(token.content), found->second, token.id);
      place(token.id, token.content, token.content);
    }
    for (const auto& [spelling, id] : raw.vocab) add_vocab_entry(spelling, id);
    for (size_t id = 0; id < bytes_.size(); ++id) {
      require(!bytes_[id].empty(), "{}: no token has id {}, expected ids without gaps up to {}", source, id, bytes_.size() - 1);
    }
  }

  // Bytes of all tokens by id.
  const std::vector<std::string>& all() const { return bytes_; }

  // The same with added tokens left empty: what merges may use.
  std::vector<std::string> mergeable() const {
    std::vector<std::string> tokens = bytes_;
    for (const auto& [content, id] : added_) tokens[static_cast<size_t>(id)].clear();
    return tokens;
  }

 private:
  void add_vocab_entry(const std::string& spelling, int32_t id) {
    const auto added = added_.find(spelling);
    if (added == added_.end()) return place(id, decode_spelling(source_, "model.vocab", spelling), spelling);
    require(added->second == id, "{}: model.vocab: {} has id {}, but id {} in added_tokens", source_, quoted(spelling), id, added->second);
    require(in_both_.insert(id).second, "{}: model.vocab: {} appears twice", source_, quoted(spelling));
  }

  void place(int32_t id, std::string bytes, std::string_view spelling) {
    const auto index = static_cast<size_t>(id);
    if (index >= bytes_.size()) bytes_.resize(index + 1);
    require(bytes_[index].empty(), "{}: id {} belongs to {} and to another token", source_, id, quoted(spelling));
    bytes_[index] = std::move(bytes);
  }

  const std::string& source_;
  std::vector<std::string> bytes_;
  std::unordered_map<std::string_view, int32_t> added_;
  std::unordered_set<int32_t> in_both_;
};

// Resolves the merges' spellings against the tokens they may use.
std::vector<BpeMerge> resolve_merges(const RawTokenizer& raw, const TokenTable& mergeable, const std::string& source) {
  std::vector<BpeMerge> merges;
  merges.reserve(raw.merges.size());
  std::unordered_set<uint64_t> seen;
  seen.reserve(raw.merges.size());
  for (size_t rank = 0; rank < raw.merges.size(); ++rank) {
    const auto& [left, right] = raw.merges[rank];
    const auto resolve = [&](const std::string& spelling) {
      const std::string bytes = decode_spelling(source, fmt::format("model.merges[{}]", rank), spelling);
      const int32_t id = bytes.empty() ? -1 : mergeable.find(bytes);
      require(id >= 0, "{}: model.merges[{}]: {} is not in model.vocab", source, rank, quoted(spelling));
      return id;
    };
    const BpeMerge merge{resolve(left), resolve(right), resolve(left + right)};
    const uint64_t pair = (static_cast<uint64_t>(merge.left) << 32) | static_cast<uint64_t>(merge.right);
    require(seen.insert(pair).second, "{}: model.merges[{}]: {} and {} appear twice", source, rank, quoted(left), quoted(right));
    merges.push_back(merge);
  }
  return merges;
}

}  // namespace

TokenizerData read_tokenizer_json(std::string_view json, const std::string& source) {
  require(json.size() <= kMaxTokenizerFileBytes, "{}: {} bytes, expected at most {}", source, json.size(), kMaxTokenizerFileBytes);
  RawTokenizer raw = read_raw(json, source);
  const TokenCollector collector(raw, source);
  const TokenTable mergeable(collector.mergeable());

  for (const auto& [spelling, id] : raw.vocab) {
    const std::string_view bytes = mergeable[id];
    require(bytes.empty() || mergeable.find(bytes) == id, "{}: model.vocab: {} appears twice", source, quoted(spelling));
  }

  TokenizerData data;
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    const int32_t id = mergeable.find(std::string_view(&c, 1));
    require(id >= 0, "{}: model.vocab: no token for byte 0x{:02x}", source, byte);
    data.byte_ids[static_cast<size_t>(byte)] = id;
  }
  data.merges = resolve_merges(raw, mergeable, source);
  data.tokens = TokenTable(collector.all());
  data.added_tokens = std::move(raw.added_tokens);
  return data;
}

}  // namespace dsv4
