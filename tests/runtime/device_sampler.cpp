#include "runtime/device_sampler.h"

#include <gtest/gtest.h>

#include <limits>

#include "backend/cpu/backend.h"
#include "base/error.h"
#include "support/random_data.h"

namespace dsv4 {
namespace {

constexpr int kVocab = 97;

Sampler make_sampler(int kind) {
  SamplingParams params;
  params.temperature = kind % 2 == 0 ? 0.0f : 1.0f;
  params.seed = static_cast<uint64_t>(kind);
  if (kind >= 2) params.frequency_penalty = 0.25f;
  if (kind >= 3) params.logit_bias = {{3, -std::numeric_limits<float>::infinity()}, {90, 4.0f}};
  if (kind >= 4) params.num_logprobs = kind;
  Sampler sampler(params, kVocab);
  for (int token = 0; token < 5 * kind; ++token) sampler.observe_completion((token * 7) % kVocab);
  return sampler;
}

// The op on the host's own lists, which the moved ones must equal; one object draws lists that grow and shrink.
TEST(DeviceSampler, DrawsWhatTheOpDrawsFromTheHostsLists) {
  const std::unique_ptr<Backend> backend = make_cpu_backend();
  DeviceSampler device_sampler(*backend);
  test::Random random(5);
  for (const std::vector<int>& kinds : {std::vector<int>{0}, {5, 1, 2, 4}, {3}, {5, 5, 4, 3, 2, 1, 0}, {1, 0}}) {
    const int num_rows = static_cast<int>(kinds.size());
    const std::vector<float> logits = test::random_floats(random, kinds.size() * kVocab, 2.0f);
    std::vector<Sampler> samplers;
    for (int kind : kinds) samplers.push_back(make_sampler(kind));
    std::vector<SampleRow> rows;
    for (const Sampler& sampler : samplers) rows.push_back(sampler.row());

    std::vector<float> changed = logits, logprobs(kinds.size()), top_logprobs(kinds.size() * 5);
    std::vector<int32_t> ids(kinds.size()), top_ids(kinds.size() * 5);
    backend->sample({changed.data(), rows.data(), ids.data(), logprobs.data(), top_ids.data(), top_logprobs.data(), num_rows, kVocab, 5});
    changed = logits;
    const std::vector<SampledToken> drawn = device_sampler.draw(changed.data(), kVocab, rows);
    ASSERT_EQ(drawn.size(), kinds.size());
    for (size_t i = 0; i < drawn.size(); ++i) {
      EXPECT_EQ(drawn[i].token_id, ids[i]);
      EXPECT_EQ(drawn[i].logprob, logprobs[i]);
      ASSERT_EQ(drawn[i].top.size(), static_cast<size_t>(rows[i].num_logprobs));
      for (size_t j = 0; j < drawn[i].top.size(); ++j) {
        EXPECT_EQ(drawn[i].top[j].token_id, top_ids[i * 5 + j]);
        EXPECT_EQ(drawn[i].top[j].logprob, top_logprobs[i * 5 + j]);
      }
    }
  }
  EXPECT_TRUE(device_sampler.draw(nullptr, kVocab, {}).empty());
}

}  // namespace
}  // namespace dsv4
