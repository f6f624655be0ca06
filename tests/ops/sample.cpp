#include "ops/sample.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "backend/cpu/ops.h"
#include "base/error.h"
#include "base/philox.h"
#include "support/compare.h"
#include "support/random_data.h"

namespace dsv4 {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Result {
  std::vector<int32_t> token_ids;
  std::vector<float> logprobs;
  std::vector<int32_t> top_ids;
  std::vector<float> top_logprobs;
  std::vector<float> logits;  // as the op left them
};

Result run(std::vector<float> logits, const std::vector<SampleRow>& rows, int max_logprobs = 0) {
  const int num_rows = static_cast<int>(rows.size());
  const size_t num_top = rows.size() * static_cast<size_t>(max_logprobs);
  Result result{std::vector<int32_t>(rows.size(), -7),
                std::vector<float>(rows.size(), -77.0f),
                std::vector<int32_t>(num_top, -7),
                std::vector<float>(num_top, -77.0f),
                {}};
  cpu::sample({logits.data(), rows.data(), result.token_ids.data(), result.logprobs.data(),
               max_logprobs > 0 ? result.top_ids.data() : nullptr, max_logprobs > 0 ? result.top_logprobs.data() : nullptr, num_rows,
               static_cast<int>(logits.size()) / num_rows, max_logprobs});
  result.logits = std::move(logits);
  return result;
}

Result run_one(const std::vector<float>& logits, const SampleRow& row, int max_logprobs = 0) {
  return run(logits, {row}, max_logprobs);
}

std::vector<double> softmax(const std::vector<float>& logits, double temperature = 1.0) {
  std::vector<double> p(logits.size());
  double sum = 0.0;
  for (size_t i = 0; i < p.size(); ++i) sum += p[i] = std::exp(logits[i] / temperature);
  for (double& value : p) value /= sum;
  return p;
}

// Token ids that come up in `num_draws` draws, with their counts.
std::vector<int> count_draws(const std::vector<float>& logits, SampleRow row, int num_draws) {
  std::vector<int> counts(logits.size());
  for (int i = 0; i < num_draws; ++i) {
    row.draw_idx = static_cast<uint64_t>(i);
    ++counts[run_one(logits, row).token_ids[0]];
  }
  return counts;
}

void expect_distribution(const std::vector<int>& counts, const std::vector<double>& p, double limit) {
  const double num_draws = std::accumulate(counts.begin(), counts.end(), 0);
  double chi_square = 0.0;
  for (size_t i = 0; i < p.size(); ++i) {
    if (p[i] == 0.0) {
      EXPECT_EQ(counts[i], 0) << "token " << i << " cannot be drawn";
    } else {
      chi_square += std::pow(counts[i] - p[i] * num_draws, 2) / (p[i] * num_draws);
    }
  }
  EXPECT_LT(chi_square, limit);
}

TEST(Sample, GreedyTakesTheLargestAndTheLowerIdOfEquals) {
  const SampleRow greedy;
  EXPECT_EQ(run_one({0.5f, 3.0f, -1.0f, 3.0f, 2.0f}, greedy).token_ids[0], 1);
  EXPECT_EQ(run_one({-kInfinity, -5.0f, -5.0f}, greedy).token_ids[0], 1);
  EXPECT_EQ(run_one({-0.0f, 0.0f}, greedy).token_ids[0], 0);
  EXPECT_EQ(run_one({7.0f}, greedy).token_ids[0], 0);
  // Greedy ignores the seed and the cuts.
  SampleRow row;
  row.seed = 123;
  row.top_k = 1;
  row.min_p = 0.5f;
  EXPECT_EQ(run_one({1.0f, 2.0f, 2.0f}, row).token_ids[0], 1);
}

// The 99.9 % quantiles of chi-square: 4 degrees of freedom 18.47, 3: 16.27, 2: 13.82, 1: 10.83.
TEST(Sample, DrawsFollowTheSoftmax) {
  const std::vector<float> logits = {1.0f, 0.0f, -1.0f, 2.0f, 0.5f};
  for (const uint64_t seed : {1u, 2u, 99u}) {
    SampleRow row;
    row.temperature = 1.0f;
    row.seed = seed;
    expect_distribution(count_draws(logits, row, 20000), softmax(logits), 18.47);
    row.temperature = 2.5f;
    expect_distribution(count_draws(logits, row, 20000), softmax(logits, 2.5), 18.47);
  }
}

TEST(Sample, DrawIsTheRaceOfExponentials) {
  // argmax p_i / −log(u_i), written out for every token.
  test::Random random(131);
  for (int trial = 0; trial < 200; ++trial) {
    const auto logits = test::random_floats(random, 300, 3.0f);
    SampleRow row;
    row.temperature = 0.8f;
    row.seed = random.next();
    row.draw_idx = random.next();
    const auto p = softmax(logits, 0.8);
    size_t best = 0;
    double largest = -1.0, second = -1.0;
    for (size_t i = 0; i < p.size(); ++i) {
      const double ratio = p[i] / -std::log(sample_uniform(static_cast<int32_t>(i), row.draw_idx, row.seed));
      if (ratio > largest) {
        second = largest;
        largest = ratio;
        best = i;
      } else {
        second = std::max(second, ratio);
      }
    }
    if (second > largest * (1 - 1e-5)) continue;  // too close for fp32 probabilities
    EXPECT_EQ(run_one(logits, row).token_ids[0], static_cast<int32_t>(best)) << trial;
  }
}

TEST(Sample, SmallTemperatureIsGreedy) {
  test::Random random(132);
  SampleRow row;
  row.temperature = 1e-9f;
  for (int i = 0; i < 50; ++i) {
    const auto logits = test::random_floats(random, 100);
    row.draw_idx = static_cast<uint64_t>(i);
    EXPECT_EQ(run_one(logits, row).token_ids[0], std::max_element(logits.begin(), logits.end()) - logits.begin());
  }
}

TEST(Sample, TopK) {
  const std::vector<float> logits = {0.0f, 2.0f, 1.0f, 1.0f, 1.0f, -3.0f};
  SampleRow row;
  row.temperature = 1.0f;
  row.seed = 5;
  // Three of them: 1 and, of the equal ones, the lower ids 2 and 3.
  row.top_k = 3;
  auto p = softmax({2.0f, 1.0f, 1.0f});
  expect_distribution(count_draws(logits, row, 10000), {0.0, p[0], p[1], p[2], 0.0, 0.0}, 13.82);
  row.top_k = 1;
  EXPECT_EQ(count_draws(logits, row, 200)[1], 200);
  // As many as there are, or more: no cut. (5 degrees of freedom: 20.5.)
  for (const int top_k : {6, 100}) {
    row.top_k = top_k;
    expect_distribution(count_draws(logits, row, 10000), softmax(logits), 20.5);
  }
}

TEST(Sample, TopP) {
  // Probabilities 0.5, 0.25, 0.125, 0.125 (ids 2, 0, 1, 3).
  const float log2 = std::log(2.0f);
  const std::vector<float> logits = {-2 * log2, -3 * log2, -log2, -3 * log2};
  SampleRow row;
  row.temperature = 1.0f;
  row.seed = 6;
  row.top_p = 0.4f;
  EXPECT_EQ(count_draws(logits, row, 300)[2], 300);
  row.top_p = 0.7f;
  expect_distribution(count_draws(logits, row, 10000), {1.0 / 3, 0.0, 2.0 / 3, 0.0}, 10.83);
  // 0.8 needs a third token: of the equal ones the lower id.
  row.top_p = 0.8f;
  expect_distribution(count_draws(logits, row, 10000), {0.25 / 0.875, 0.125 / 0.875, 0.5 / 0.875, 0.0}, 13.82);
  row.top_p = 0.95f;
  expect_distribution(count_draws(logits, row, 10000), {0.25, 0.125, 0.5, 0.125}, 16.27);
  row.top_p = 1e-9f;  // at least one token
  EXPECT_EQ(count_draws(logits, row, 300)[2], 300);
}

TEST(Sample, TopPOfManyTokens) {
  // A nearly flat distribution: the set is larger than the part that is put in order first.
  test::Random random(133);
  const int vocab_size = 5000;
  const auto logits = test::random_floats(random, vocab_size, 0.1f);
  const auto p = softmax(logits);
  std::vector<int> order(vocab_size);
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
  double mass = 0.0;
  std::vector<bool> allowed(vocab_size);
  int num_allowed = 0;
  for (const int id : order) {
    if (mass >= 0.6) break;
    mass += p[id];
    allowed[id] = true;
    ++num_allowed;
  }
  ASSERT_GT(num_allowed, 1024);
  SampleRow row;
  row.temperature = 1.0f;
  row.top_p = 0.6f;
  int inside = 0, rank_sum = 0;
  for (int i = 0; i < 400; ++i) {
    row.draw_idx = static_cast<uint64_t>(i);
    const int id = run_one(logits, row).token_ids[0];
    inside += allowed[id];
    rank_sum += static_cast<int>(std::find(order.begin(), order.end(), id) - order.begin());
  }
  EXPECT_EQ(inside, 400);
  EXPECT_GT(rank_sum / 400, num_allowed / 3) << "draws should reach the whole set";
}

TEST(Sample, MinP) {
  const float log2 = std::log(2.0f);
  const std::vector<float> logits = {-2 * log2, -3 * log2, -log2, -3 * log2};
  SampleRow row;
  row.temperature = 1.0f;
  row.seed = 7;
  row.min_p = 0.4f;  // of 0.5: at least 0.2
  expect_distribution(count_draws(logits, row, 10000), {1.0 / 3, 0.0, 2.0 / 3, 0.0}, 10.83);
  row.min_p = 0.6f;
  EXPECT_EQ(count_draws(logits, row, 300)[2], 300);
  row.min_p = 0.2f;
  expect_distribution(count_draws(logits, row, 10000), {0.25, 0.125, 0.5, 0.125}, 16.27);
}

TEST(Sample, BiasAndBans) {
  std::vector<LogitBias> bias = {{0, -kInfinity}, {2, 5.0f}, {1, -1.0f}};
  SampleRow row;
  row.bias = bias.data();
  row.num_bias = 3;
  const Result result = run_one({100.0f, 1.0f, 0.0f, 4.0f}, row);
  EXPECT_EQ(result.token_ids[0], 2);
  EXPECT_EQ(result.logits, (std::vector<float>{-kInfinity, 0.0f, 5.0f, 4.0f}));
  // A banned token is never drawn and has log-probability −inf.
  row.temperature = 5.0f;
  row.num_logprobs = 4;
  const auto counts = count_draws({100.0f, 1.0f, 0.0f, 4.0f}, row, 3000);
  EXPECT_EQ(counts[0], 0);
  EXPECT_GT(counts[1], 0);
  const Result listed = run_one({100.0f, 1.0f, 0.0f, 4.0f}, row, 4);
  EXPECT_EQ(listed.top_ids, (std::vector<int32_t>{2, 3, 1, 0}));
  EXPECT_EQ(listed.top_logprobs[3], -kInfinity);
}

TEST(Sample, Penalties) {
  // id 0: prompt only; 1: completion twice; 2: both; 3: unseen; 4: listed with zero counts; 5: banned.
  const std::vector<TokenCount> history = {{0, 3, 0}, {1, 0, 2}, {2, 1, 1}, {4, 0, 0}, {5, 1, 1}};
  const std::vector<float> logits = {2.0f, 2.0f, -2.0f, 2.0f, 2.0f, -kInfinity};
  SampleRow row;
  row.history = history.data();
  row.num_history = static_cast<int>(history.size());
  row.repetition_penalty = 1.25f;
  EXPECT_EQ(run_one(logits, row).logits, (std::vector<float>{1.6f, 1.6f, -2.5f, 2.0f, 2.0f, -kInfinity}));
  row.repetition_penalty = 1.0f;
  row.presence_penalty = 0.5f;
  EXPECT_EQ(run_one(logits, row).logits, (std::vector<float>{2.0f, 1.5f, -2.5f, 2.0f, 2.0f, -kInfinity}));
  row.presence_penalty = 0.0f;
  row.frequency_penalty = 0.25f;
  EXPECT_EQ(run_one(logits, row).logits, (std::vector<float>{2.0f, 1.5f, -2.25f, 2.0f, 2.0f, -kInfinity}));
  // All three, after the bias: (2 − 1)/1.25 − 0.5 − 2·0.25.
  const LogitBias bias{1, -1.0f};
  row.bias = &bias;
  row.num_bias = 1;
  row.repetition_penalty = 1.25f;
  row.presence_penalty = 0.5f;
  EXPECT_FLOAT_EQ(run_one(logits, row).logits[1], 1.0f / 1.25f - 0.5f - 0.5f);
}

TEST(Sample, LogprobsIgnoreTheTemperatureAndTheCuts) {
  test::Random random(134);
  const auto logits = test::random_floats(random, 50, 2.0f);
  const auto p = softmax(logits);
  std::vector<int32_t> order(50);
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
  for (const float temperature : {0.0f, 0.3f, 2.0f}) {
    SampleRow row;
    row.temperature = temperature;
    row.top_k = 20;
    row.num_logprobs = 3;
    const Result result = run_one(logits, row, 5);
    EXPECT_TRUE(test::close_to(result.logprobs[0], std::log(p[result.token_ids[0]]), 1e-5));
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(result.top_ids[i], order[i]);
      EXPECT_TRUE(test::close_to(result.top_logprobs[i], std::log(p[order[i]]), 1e-5));
    }
    for (int i = 3; i < 5; ++i) EXPECT_EQ(result.top_ids[i], -1);
  }
  // More alternatives than tokens, and none.
  SampleRow row;
  row.num_logprobs = 9;
  const Result few = run_one({0.0f, 1.0f}, row, 9);
  EXPECT_EQ(few.top_ids, (std::vector<int32_t>{1, 0, -1, -1, -1, -1, -1, -1, -1}));
  EXPECT_TRUE(test::close_to(few.top_logprobs[0], -std::log1p(std::exp(-1.0)), 1e-6));
  row.num_logprobs = 0;
  EXPECT_EQ(run_one({0.0f, 1.0f}, row, 2).top_ids, (std::vector<int32_t>{-1, -1}));
}

TEST(Sample, LogprobsOfHugeLogits) {
  SampleRow row;
  const Result result = run_one({3e38f, 3e38f, -3e38f}, row);
  EXPECT_EQ(result.token_ids[0], 0);
  EXPECT_TRUE(test::close_to(result.logprobs[0], -std::log(2.0), 1e-6));
}

TEST(Sample, ARowDoesNotDependOnTheOthers) {
  test::Random random(135);
  const int num_rows = 7, vocab_size = 400;
  const auto logits = test::random_floats(random, static_cast<size_t>(num_rows) * vocab_size);
  std::vector<SampleRow> rows(num_rows);
  for (int r = 0; r < num_rows; ++r) {
    rows[r].temperature = r % 3 == 0 ? 0.0f : 1.0f + 0.1f * static_cast<float>(r);
    rows[r].top_k = r % 2 == 0 ? 0 : 50;
    rows[r].top_p = r == 4 ? 0.9f : 1.0f;
    rows[r].seed = 1000 + static_cast<uint64_t>(r);
    rows[r].draw_idx = 17;
    rows[r].num_logprobs = r;
  }
  const Result batch = run(logits, rows, 7);
  for (int r = 0; r < num_rows; ++r) {
    const std::vector<float> row_logits(logits.begin() + r * vocab_size, logits.begin() + (r + 1) * vocab_size);
    const Result alone = run_one(row_logits, rows[r], 7);
    EXPECT_EQ(alone.token_ids[0], batch.token_ids[r]);
    EXPECT_EQ(alone.logprobs[0], batch.logprobs[r]);
    for (int i = 0; i < 7; ++i) EXPECT_EQ(alone.top_ids[i], batch.top_ids[r * 7 + i]);
  }
  // The same row twice in a batch draws the same token; another draw_idx or seed does not always.
  EXPECT_EQ(run(std::vector<float>(200, 0.0f), {rows[1], rows[1]}).token_ids[0],
            run(std::vector<float>(200, 0.0f), {rows[1], rows[1]}).token_ids[1]);
}

TEST(Sample, DrawsOfDifferentPositionsAreIndependent) {
  // Two tokens, p = ½: consecutive draws agree half of the time. (1 degree of freedom over 4 equal cells: 3 → 16.27.)
  SampleRow row;
  row.temperature = 1.0f;
  row.seed = 42;
  std::vector<int> pairs(4);
  for (int i = 0; i < 8000; i += 2) {
    row.draw_idx = static_cast<uint64_t>(i);
    const int first = run_one({0.0f, 0.0f}, row).token_ids[0];
    row.draw_idx += 1;
    ++pairs[2 * first + run_one({0.0f, 0.0f}, row).token_ids[0]];
  }
  expect_distribution(pairs, {0.25, 0.25, 0.25, 0.25}, 16.27);
}

TEST(Sample, BadLogitsAreErrors) {
  const SampleRow greedy;
  EXPECT_THROW(run_one({0.0f, std::numeric_limits<float>::quiet_NaN()}, greedy), Error);
  EXPECT_THROW(run_one({0.0f, kInfinity}, greedy), Error);
  EXPECT_THROW(run_one({-kInfinity, -kInfinity}, greedy), Error);
  const LogitBias outside{2, 1.0f};
  SampleRow row;
  row.bias = &outside;
  row.num_bias = 1;
  EXPECT_THROW(run_one({0.0f, 1.0f}, row), Error);
  const TokenCount negative{-1, 1, 1};
  row.num_bias = 0;
  row.history = &negative;
  row.num_history = 1;
  EXPECT_THROW(run_one({0.0f, 1.0f}, row), Error);
}

}  // namespace
}  // namespace dsv4
