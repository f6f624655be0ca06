#include "text/streaming_decoder.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "support/sample_tokenizer.h"
#include "text/utf8.h"

namespace dsv4 {
namespace {

using test::kFirstByteId;
using test::kFirstMergeId;
using test::sample_tokenizer;

int32_t byte_id(char c) {
  return kFirstByteId + static_cast<uint8_t>(c);
}

TEST(StreamingDecoder, HoldsBackIncompleteCharacters) {
  StreamingDecoder decoder(sample_tokenizer());
  EXPECT_EQ(decoder.push(byte_id('a')), "a");
  EXPECT_EQ(decoder.push(kFirstMergeId + 7), "");  // f0 9f
  EXPECT_EQ(decoder.push(byte_id('\x99')), "");
  EXPECT_EQ(decoder.push(byte_id('\x82')), "🙂");
  EXPECT_EQ(decoder.push(byte_id('\xe4')), "");
  EXPECT_EQ(decoder.push(byte_id('b')), "\ufffdb");
  EXPECT_EQ(decoder.push(byte_id('\xe4')), "");
  EXPECT_EQ(decoder.flush(), "\ufffd");
  EXPECT_EQ(decoder.flush(), "");
}

TEST(StreamingDecoder, KeepsAddedTokens) {
  StreamingDecoder decoder(sample_tokenizer());
  EXPECT_EQ(decoder.push(1), "<｜end▁of▁sentence｜>");
}

TEST(StreamingDecoder, RefusesUnknownIds) {
  StreamingDecoder decoder(sample_tokenizer());
  EXPECT_THROW(decoder.push(sample_tokenizer().vocab_size()), Error);
}

TEST(StreamingDecoder, AddsUpToDecode) {
  const Tokenizer& tokenizer = sample_tokenizer();
  std::mt19937 random(13);
  for (int round = 0; round < 500; ++round) {
    std::vector<int32_t> ids;
    for (int i = 0; i < 30; ++i) ids.push_back(static_cast<int32_t>(random() % static_cast<uint32_t>(tokenizer.vocab_size())));
    StreamingDecoder decoder(tokenizer);
    std::string joined;
    for (const int32_t id : ids) {
      const std::string piece = decoder.push(id);
      EXPECT_EQ(utf8_valid_prefix(piece), piece.size());
      joined += piece;
    }
    EXPECT_EQ(joined + decoder.flush(), tokenizer.decode(ids));
  }
}

}  // namespace
}  // namespace dsv4
