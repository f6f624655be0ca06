#include "text/tokenizer_json.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "support/error_of.h"
#include "support/sample_tokenizer.h"

namespace dsv4 {
namespace {

using test::error_of;
using test::kFirstByteId;
using test::kFirstMergeId;
using test::sample_tokenizer;
using test::sample_tokenizer_json;

using nlohmann::ordered_json;

// The error line for a changed sample file; "" if it is accepted.
std::string error_after(const std::function<void(ordered_json&)>& change) {
  ordered_json file = sample_tokenizer_json();
  change(file);
  return error_of([&] { read_tokenizer_json(file.dump(), "t.json"); });
}

TEST(TokenizerJson, ReadsTheSample) {
  const TokenizerData data = read_tokenizer_json(sample_tokenizer_json().dump(), "t.json");
  EXPECT_EQ(data.tokens.size(), 3 + 256 + 11 + 7);
  EXPECT_EQ(data.merges.size(), 11u);
  EXPECT_EQ(data.added_tokens.size(), 10u);
  for (int byte = 0; byte < 256; ++byte) EXPECT_EQ(data.byte_ids[static_cast<size_t>(byte)], kFirstByteId + byte);
  EXPECT_EQ(data.tokens[0], "<｜begin▁of▁sentence｜>");
  EXPECT_EQ(data.tokens[kFirstMergeId + 9], "你");
  EXPECT_EQ(data.merges[0].left, kFirstByteId + 'h');
  EXPECT_EQ(data.merges[0].right, kFirstByteId + 'e');
  EXPECT_EQ(data.merges[0].result, kFirstMergeId);
  EXPECT_TRUE(data.added_tokens[0].special);
  EXPECT_FALSE(data.added_tokens[0].normalized);
  EXPECT_FALSE(data.added_tokens[3].special);
  EXPECT_TRUE(data.added_tokens[3].normalized);
}

TEST(TokenizerJson, ReadsMergesAsPairs) {
  ordered_json file = sample_tokenizer_json();
  for (ordered_json& merge : file["model"]["merges"]) {
    const std::string text = merge;
    const size_t space = text.find(' ');
    merge = {text.substr(0, space), text.substr(space + 1)};
  }
  const TokenizerData data = read_tokenizer_json(file.dump(), "t.json");
  EXPECT_EQ(data.merges.size(), 11u);
  EXPECT_EQ(data.merges[3].result, kFirstMergeId + 3);
}

TEST(TokenizerJson, FieldOrderDoesNotMatter) {
  ordered_json file = sample_tokenizer_json();
  ordered_json reversed = ordered_json::object();
  for (auto it = file.rbegin(); it != file.rend(); ++it) reversed[it.key()] = it.value();
  const ordered_json vocab = reversed["model"]["vocab"];
  reversed["model"].erase("vocab");
  reversed["model"]["vocab"] = vocab;  // now after merges
  EXPECT_EQ(read_tokenizer_json(reversed.dump(), "t.json").merges.size(), 11u);
}

TEST(TokenizerJson, NamesTheFieldOfAnUnsupportedOption) {
  using Change = std::function<void(ordered_json&)>;
  const std::vector<std::pair<Change, std::string>> cases = {
      {[](auto& f) {
         f["truncation"] = {{"max_length", 5}};
       },
       "truncation: "},
      {[](auto& f) { f["padding"] = 1; }, "padding: 1, expected null"},
      {[](auto& f) {
         f["normalizer"] = {{"type", "NFC"}};
       },
       "normalizer.type: \"NFC\", expected \"Sequence\""},
      {[](auto& f) {
         f["normalizer"]["normalizers"].push_back({{"type", "NFC"}});
       },
       "normalizer.normalizers: "},
      {[](auto& f) {
         f["post_processor"] = {{"type", "TemplateProcessing"}};
       },
       "post_processor.type: "},
      {[](auto& f) { f["decoder"] = nullptr; }, "decoder.type: nothing"},
      {[](auto& f) { f["model"]["type"] = "Unigram"; }, "model.type: "},
      {[](auto& f) { f["model"]["dropout"] = 0.1; }, "model.dropout: 0.1, expected null"},
      {[](auto& f) { f["model"]["unk_token"] = "<unk>"; }, "model.unk_token: "},
      {[](auto& f) { f["model"]["byte_fallback"] = true; }, "model.byte_fallback: true, expected false"},
      {[](auto& f) { f["model"]["ignore_merges"] = true; }, "model.ignore_merges: true, expected false"},
      {[](auto& f) { f["model"]["end_of_word_suffix"] = "</w>"; }, "model.end_of_word_suffix: "},
      {[](auto& f) { f["pre_tokenizer"] = nullptr; }, "pre_tokenizer.type: "},
      {[](auto& f) { f["pre_tokenizer"]["pretokenizers"].erase(1); }, "pre_tokenizer.pretokenizers: "},
      {[](auto& f) { f["pre_tokenizer"]["pretokenizers"][2]["pattern"]["Regex"] = "\\s+"; },
       "pre_tokenizer.pretokenizers[2].pattern.Regex: "},
      {[](auto& f) {
         f["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {{"String", " "}};
       },
       "pre_tokenizer.pretokenizers[0].pattern.Regex: "},
      {[](auto& f) { f["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed"; }, "pre_tokenizer.pretokenizers[0].behavior: "},
      {[](auto& f) { f["pre_tokenizer"]["pretokenizers"][1]["invert"] = true; }, "pre_tokenizer.pretokenizers[1].invert: true"},
      {[](auto& f) { f["pre_tokenizer"]["pretokenizers"][3]["use_regex"] = true; }, "pre_tokenizer.pretokenizers[3].use_regex: true"},
      {[](auto& f) { f["pre_tokenizer"]["pretokenizers"][3]["add_prefix_space"] = true; },
       "pre_tokenizer.pretokenizers[3].add_prefix_space: "},
      {[](auto& f) { f["added_tokens"][4]["lstrip"] = true; }, "added_tokens[4].lstrip: true"},
      {[](auto& f) { f["added_tokens"][4]["single_word"] = true; }, "added_tokens[4].single_word: true"},
      {[](auto& f) { f.erase("model"); }, "model: missing"},
      {[](auto& f) { f.erase("added_tokens"); }, "added_tokens: missing"},
      {[](auto& f) { f.erase("pre_tokenizer"); }, "pre_tokenizer: missing"},
  };
  for (const auto& [change, wanted] : cases) {
    const std::string error = error_after(change);
    EXPECT_NE(error.find(wanted), std::string::npos) << "wanted " << wanted << "\ngot    " << error;
    EXPECT_EQ(error.rfind("t.json: ", 0), 0u) << error;
    EXPECT_EQ(error.find('\n'), std::string::npos) << error;
  }
}

TEST(TokenizerJson, NamesTheTokenAtFault) {
  using Change = std::function<void(ordered_json&)>;
  const std::vector<std::pair<Change, std::string>> cases = {
      {[](auto& f) { f["model"]["vocab"]["he"] = 5; }, "t.json: id 5 belongs to \"he\" and to another token"},
      {[](auto& f) { f["model"]["vocab"]["zz"] = 900; }, "t.json: no token has id 277, expected ids without gaps up to 900"},
      {[](auto& f) { f["model"]["vocab"]["zz"] = -1; }, "-1 is not an integer in [0, 1048575]"},
      {[](auto& f) { f["model"]["vocab"]["zz"] = 1 << 20; }, "1048576 is not an integer in [0, 1048575]"},
      {[](auto& f) { f["model"]["vocab"]["zz"] = "5"; }, "expected a value"},
      {[](auto& f) { f["model"]["vocab"]["z z"] = 277; }, "model.vocab: \"z z\" has a character outside the byte alphabet"},
      {[](auto& f) { f["model"]["vocab"][""] = 277; }, "model.vocab: \"\" has 0 bytes"},
      {[](auto& f) { f["model"]["vocab"][std::string(9000, 'z')] = 277; }, "has 9000 bytes, expected 1 to 8192"},
      {[](auto& f) { f["model"]["vocab"]["<｜▁pad▁｜>"] = 277; }, "model.vocab: \"<｜▁pad▁｜>\" has id 277, but id 2 in added_tokens"},
      {[](auto& f) { f["added_tokens"][3]["id"] = 7; }, "id 7 belongs to "},
      {[](auto& f) { f["added_tokens"][3]["content"] = "<think>"; }, "added_tokens: \"<think>\" appears twice"},
      {[](auto& f) { f["added_tokens"][3]["content"] = ""; }, "added_tokens[3].content: 0 bytes"},
      {[](auto& f) { f["added_tokens"][3].erase("id"); }, "added_tokens[3].id: missing"},
      {[](auto& f) { f["model"]["merges"].push_back("h"); }, "model.merges[11]: \"h\", expected two tokens with one space between"},
      {[](auto& f) { f["model"]["merges"].push_back("h e l"); }, "model.merges[11]: \"h e l\", expected two tokens"},
      {[](auto& f) {
         f["model"]["merges"].push_back({"h", "e", "l"});
       },
       "model.merges[11]: more than two tokens"},
      {[](auto& f) { f["model"]["merges"].push_back({"h"}); }, "model.merges[11]: 1 tokens, expected two"},
      {[](auto& f) { f["model"]["merges"].push_back("h i"); }, "t.json: model.merges[11]: \"hi\" is not in model.vocab"},
      {[](auto& f) { f["model"]["merges"].push_back("qq e"); }, "t.json: model.merges[11]: \"qq\" is not in model.vocab"},
      {[](auto& f) { f["model"]["merges"].push_back("h e"); }, "t.json: model.merges[11]: \"h\" and \"e\" appear twice"},
      {[](auto& f) { f["model"]["merges"].push_back(" e"); }, "t.json: model.merges[11]: \"\" is not in model.vocab"},
  };
  for (const auto& [change, wanted] : cases) {
    const std::string error = error_after(change);
    EXPECT_NE(error.find(wanted), std::string::npos) << "wanted " << wanted << "\ngot    " << error;
  }
}

TEST(TokenizerJson, MergesCannotMakeAddedTokens) {
  const std::string error = error_after([](ordered_json& file) {
    // "｜DSML｜" is no base token, but "<think>" could be spelt by merges.
    file["model"]["vocab"]["<think"] = 277;
    file["model"]["merges"].push_back("<think >");
  });
  EXPECT_EQ(error, "t.json: model.merges[11]: \"<think>\" is not in model.vocab");
}

TEST(TokenizerJson, RefusesAMissingByte) {
  const std::string error = error_after([](ordered_json& file) {
    const int id = file["model"]["vocab"]["Ā"];
    file["model"]["vocab"].erase("Ā");
    file["model"]["vocab"]["zz"] = id;
  });
  EXPECT_EQ(error, "t.json: model.vocab: no token for byte 0x00");
}

TEST(TokenizerJson, RefusesRepeatedKeys) {
  std::string text = sample_tokenizer_json().dump();
  const size_t vocab = text.find("\"vocab\":{");
  std::string twice = text;
  twice.insert(vocab + 9, "\"he\":277,");
  try {
    read_tokenizer_json(twice, "t.json");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("model.vocab: \"he\" appears twice"), std::string::npos) << error.what();
  }
  EXPECT_THROW(read_tokenizer_json("{\"padding\": null, \"padding\": null}", "t.json"), Error);
}

TEST(TokenizerJson, RefusesEveryTruncation) {
  const std::string text = sample_tokenizer_json().dump();
  for (size_t size = 0; size < text.size(); size += 97) EXPECT_THROW(read_tokenizer_json(text.substr(0, size), "t.json"), Error) << size;
  EXPECT_THROW(read_tokenizer_json(text + "x", "t.json"), Error);
}

}  // namespace
}  // namespace dsv4
