#include "model/decode.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "backend/cpu/backend.h"
#include "base/error.h"
#include "model/dummy_weights.h"

namespace dsv4 {
namespace {

constexpr int kContext = 512;
constexpr int kSlots = 4;
constexpr int kSeqs = 3;

ModelConfig two_pages() {
  ModelConfig config = load_config(DSV4_SOURCE_DIR "/tests/data/mini/config.json");
  config.max_position_embeddings = kContext;
  return config;
}

class DecodeTest : public ::testing::Test {
 protected:
  DecodeTest()
      : backend_(make_cpu_backend()),
        config_(two_pages()),
        model_(config_, dummy_weights(config_, *backend_, 3), *backend_, {16, kSlots, kSlots, decode_size(kSeqs), kContext}),
        cache_(config_, {kSlots, 2 * kSlots, 16}, false, *backend_),
        kept_(static_cast<size_t>(kSlots * config_.vocab_size), -1.0f),
        decode_(model_, cache_, *backend_, kept_.data(), kSeqs, kContext) {}

  DecodeRow row(int slot, int32_t token_id, int32_t position, const std::vector<int32_t>& pages) const {
    return {slot, token_id, position, pages, SampleRow{}};
  }
  std::vector<float> kept(int slot) const {
    const auto begin = kept_.begin() + slot * config_.vocab_size;
    return {begin, begin + config_.vocab_size};
  }
  // The greedy choice from a slot's logits.
  int32_t best(int slot) const {
    const std::vector<float> logits = kept(slot);
    return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  }

  std::unique_ptr<Backend> backend_;
  ModelConfig config_;
  Model model_;
  KvCache cache_;
  std::vector<float> kept_;
  DecodeStep decode_;
  const std::vector<int32_t> first_{0, 1}, second_{2, 3}, third_{4, 5}, one_{7}, three_{1, 2, 3};
};

TEST(DecodeSize, IsTheNextRecordedOne) {
  EXPECT_EQ(decode_size(1), 1);
  EXPECT_EQ(decode_size(3), 4);
  EXPECT_EQ(decode_size(17), 24);
  EXPECT_EQ(decode_size(193), 256);
  EXPECT_EQ(decode_size(256), 256);
  EXPECT_EQ(decode_size(4096), 256);
}

TEST_F(DecodeTest, KeepsLogitsBySlotAndDrawsFromThem) {
  const std::vector<float> before = kept_;
  decode_.run(std::vector{row(2, 17, 0, first_), row(0, 200, 0, second_)});
  for (int slot : {0, 2}) {
    const std::optional<Drawn> drawn = decode_.drawn(slot);
    ASSERT_TRUE(drawn.has_value());
    EXPECT_EQ(drawn->token_id, best(slot));
    EXPECT_TRUE(drawn->sampling == SampleRow{});
    EXPECT_LT(drawn->logprob, 0.0f);
  }
  EXPECT_NE(kept(0), kept(2));
  for (int slot : {1, 3}) {
    EXPECT_EQ(kept(slot), std::vector<float>(static_cast<size_t>(config_.vocab_size), -1.0f));
    EXPECT_FALSE(decode_.drawn(slot).has_value());
  }
  EXPECT_EQ(decode_.num_runs(), 1u);
}

TEST_F(DecodeTest, OnlyTheSlotsOfTheLastRunHaveDrawn) {
  decode_.run(std::vector{row(0, 1, 0, first_), row(1, 2, 0, second_)});
  decode_.run(std::vector{row(1, 3, 1, second_)});
  EXPECT_FALSE(decode_.drawn(0).has_value());
  EXPECT_TRUE(decode_.drawn(1).has_value());
  decode_.forget(1);
  EXPECT_FALSE(decode_.drawn(1).has_value());
}

// The same three tokens in the same slots, but for what surrounds them: alone, beside others, on other rows.
TEST_F(DecodeTest, ARowDoesNotDependOnTheOthers) {
  std::vector<std::vector<float>> alone;
  for (int position = 0; position < 6; ++position) {
    decode_.run(std::vector{row(3, 10 + position, position, first_)});
    alone.push_back(kept(3));
  }
  decode_.forget(3);
  for (int position = 0; position < 6; ++position) {
    std::vector<DecodeRow> rows{row(3, 10 + position, position, first_)};
    if (position % 3 != 1) rows.insert(rows.begin(), row(1, 99, 2 * position, second_));
    if (position % 2 == 1) rows.push_back(row(0, 5, 0, third_));
    decode_.run(rows);
    EXPECT_EQ(kept(3), alone[static_cast<size_t>(position)]) << "position " << position;
  }
}

TEST_F(DecodeTest, BadRowsAreRefused) {
  EXPECT_THROW(decode_.run({}), Error);
  const std::vector<DecodeRow> too_many{row(0, 1, 0, first_), row(1, 1, 0, first_), row(2, 1, 0, first_), row(3, 1, 0, first_)};
  EXPECT_THROW(decode_.run(too_many), Error);
  EXPECT_THROW(decode_.run(std::vector{row(0, 1, 256, one_)}), Error) << "a page is missing";
  EXPECT_THROW(decode_.run(std::vector{row(0, 1, 0, three_)}), Error) << "more pages than the context has";
  EXPECT_THROW(decode_.run(std::vector{row(0, 1, -1, first_)}), Error);
  DecodeRow with_alternatives = row(0, 1, 0, first_);
  with_alternatives.sampling.num_logprobs = 1;
  EXPECT_THROW(decode_.run(std::vector{with_alternatives}), Error);
  EXPECT_EQ(decode_.num_runs(), 0u);
}

}  // namespace
}  // namespace dsv4
