#include "runtime/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "base/error.h"

namespace dsv4 {
namespace {

std::string complaint(const std::function<void(SamplingParams&)>& change) {
  SamplingParams params;
  change(params);
  try {
    validate(params, 4);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Sampler, SettingsOutOfRangeAreNamed) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(complaint([](SamplingParams&) {}), "");
  EXPECT_EQ(complaint([](SamplingParams& p) { p.temperature = -0.5f; }), "temperature: -0.5, expected 0 or more");
  EXPECT_EQ(complaint([](SamplingParams& p) { p.temperature = kNan; }), "temperature: nan, expected 0 or more");
  EXPECT_EQ(complaint([](SamplingParams& p) { p.top_k = -1; }), "top_k: -1, expected 0 (off) or more");
  EXPECT_EQ(complaint([](SamplingParams& p) { p.top_p = 0.0f; }), "top_p: 0, expected more than 0 and at most 1");
  EXPECT_EQ(complaint([](SamplingParams& p) { p.top_p = kNan; }), "top_p: nan, expected more than 0 and at most 1");
  EXPECT_EQ(complaint([](SamplingParams& p) { p.min_p = 1.0f; }), "min_p: 1, expected 0 or more and less than 1");
  EXPECT_EQ(complaint([](SamplingParams& p) { p.repetition_penalty = 0.0f; }), "repetition_penalty: 0, expected more than 0");
  EXPECT_EQ(complaint([](SamplingParams& p) { p.presence_penalty = kInfinity; }), "presence_penalty: inf, expected a finite number");
  EXPECT_EQ(complaint([](SamplingParams& p) { p.num_logprobs = 21; }), "logprobs: 21, expected 0 to 20");
  EXPECT_EQ(complaint([](SamplingParams& p) { p.logit_bias[4] = 1.0f; }), "logit_bias: token id 4, expected 0 to 3");
  EXPECT_EQ(complaint([](SamplingParams& p) { p.logit_bias[0] = kInfinity; }),
            "logit_bias: inf for token id 0, expected a number below infinity");
  EXPECT_EQ(complaint([](SamplingParams& p) {
              for (int id = 0; id < 4; ++id) p.logit_bias[id] = -kInfinity;
            }),
            "logit_bias: bans all 4 tokens");
  EXPECT_EQ(complaint([](SamplingParams& p) {
              for (int id = 0; id < 3; ++id) p.logit_bias[id] = -kInfinity;
            }),
            "");
}

TEST(Sampler, HistoryCountsPromptAndCompletionApart) {
  Sampler sampler({}, 10);
  const std::vector<int32_t> prompt{3, 5, 3};
  sampler.observe_prompt(prompt);
  sampler.observe_completion(5);
  sampler.observe_completion(7);
  const SampleRow row = sampler.row();
  EXPECT_EQ(row.draw_idx, 2u);
  ASSERT_EQ(row.num_history, 3);
  for (const auto& [token_id, prompt_count, completion_count] : {TokenCount{3, 2, 0}, TokenCount{5, 1, 1}, TokenCount{7, 0, 1}}) {
    bool found = false;
    for (int i = 0; i < row.num_history; ++i) {
      if (row.history[i].token_id != token_id) continue;
      found = true;
      EXPECT_EQ(row.history[i].prompt_count, prompt_count);
      EXPECT_EQ(row.history[i].completion_count, completion_count);
    }
    EXPECT_TRUE(found) << token_id;
  }
}

}  // namespace
}  // namespace dsv4
