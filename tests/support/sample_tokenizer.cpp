#include "support/sample_tokenizer.h"

#include <utility>
#include <vector>

#include "text/pre_tokenizer.h"
#include "text/utf8.h"

namespace dsv4::test {

std::string spell(const std::string& bytes) {
  const auto printable = [](int b) { return (b > 32 && b < 127) || (b > 160 && b < 256 && b != 173); };
  std::string spelling;
  for (const char c : bytes) {
    const int byte = static_cast<uint8_t>(c);
    uint32_t code_point = static_cast<uint32_t>(byte);
    if (!printable(byte)) {
      code_point = 256;
      for (int b = 0; b < byte; ++b) code_point += printable(b) ? 0 : 1;
    }
    append_utf8(spelling, code_point);
  }
  return spelling;
}

nlohmann::ordered_json sample_tokenizer_json() {
  using nlohmann::ordered_json;
  const std::vector<std::string> controls = {"<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"};
  const std::vector<std::string> protocol = {"<｜User｜>", "<｜Assistant｜>",       "<think>",     "</think>",
                                             "｜DSML｜",   "<｜latest_reminder｜>", "<｜action｜>"};
  const std::vector<std::pair<std::string, std::string>> merges = {{"h", "e"},       {"l", "l"},           {"he", "ll"}, {"hell", "o"},
                                                                   {" ", "w"},       {"o", "r"},           {" w", "or"}, {"\xf0", "\x9f"},
                                                                   {"\xe4", "\xbd"}, {"\xe4\xbd", "\xa0"}, {"\n", "\n"}};
  ordered_json vocab = ordered_json::object();
  for (const std::string& token : controls) vocab[token] = vocab.size();
  for (int byte = 0; byte < 256; ++byte) vocab[spell(std::string(1, static_cast<char>(byte)))] = vocab.size();
  ordered_json merge_list = ordered_json::array();
  for (const auto& [left, right] : merges) {
    merge_list.push_back(spell(left) + " " + spell(right));
    vocab[spell(left + right)] = vocab.size();
  }
  ordered_json added = ordered_json::array();
  const auto add = [&](const std::string& content, size_t id, bool is_control) {
    added.push_back({{"id", id},
                     {"content", content},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", !is_control},
                     {"special", is_control}});
  };
  for (size_t i = 0; i < controls.size(); ++i) add(controls[i], i, true);
  for (size_t i = 0; i < protocol.size(); ++i) add(protocol[i], vocab.size() + i, false);
  ordered_json stages = ordered_json::array();
  for (const std::string_view pattern : kSplitPatterns) {
    stages.push_back({{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}});
  }
  stages.push_back({{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}});
  const ordered_json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added},
          {"normalizer", {{"type", "Sequence"}, {"normalizers", ordered_json::array()}}},
          {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", stages}}},
          {"post_processor", byte_level},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"vocab", vocab},
            {"merges", merge_list}}}};
}

const Tokenizer& sample_tokenizer() {
  static const Tokenizer tokenizer = Tokenizer::from_json(sample_tokenizer_json().dump(), "sample.json");
  return tokenizer;
}

}  // namespace dsv4::test
