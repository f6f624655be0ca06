#include "ops/sample.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "backend/cpu/ops.h"
#include "base/error.h"
#include "support/compare.h"
#include "support/gpu.h"
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

// The rows of one call; their lists live here.
struct Case {
  int vocab_size;
  int max_logprobs = 0;
  std::vector<float> logits;
  std::vector<SampleRow> rows;
  std::vector<std::vector<LogitBias>> bias;
  std::vector<std::vector<TokenCount>> history;

  explicit Case(int vocab) : vocab_size(vocab) {}

  void add(const std::vector<float>& row_logits, const SampleRow& row, const std::vector<LogitBias>& row_bias = {},
           const std::vector<TokenCount>& row_history = {}) {
    logits.insert(logits.end(), row_logits.begin(), row_logits.end());
    rows.push_back(row);
    bias.push_back(row_bias);
    history.push_back(row_history);
  }

  Case only(size_t row) const {
    Case one(vocab_size);
    one.max_logprobs = max_logprobs;
    const auto begin = logits.begin() + static_cast<ptrdiff_t>(row) * vocab_size;
    one.add(std::vector<float>(begin, begin + vocab_size), rows[row], bias[row], history[row]);
    return one;
  }

  Result run_cpu() const {
    std::vector<SampleRow> cpu_rows = rows;
    for (size_t i = 0; i < rows.size(); ++i) set_lists(cpu_rows[i], bias[i], bias[i].data(), history[i], history[i].data());
    const size_t num_top = rows.size() * static_cast<size_t>(max_logprobs);
    Result result{std::vector<int32_t>(rows.size()), std::vector<float>(rows.size()), std::vector<int32_t>(num_top),
                  std::vector<float>(num_top), logits};
    cpu::sample({result.logits.data(), cpu_rows.data(), result.token_ids.data(), result.logprobs.data(),
                 max_logprobs > 0 ? result.top_ids.data() : nullptr, max_logprobs > 0 ? result.top_logprobs.data() : nullptr,
                 static_cast<int>(rows.size()), vocab_size, max_logprobs});
    return result;
  }

  Result run_gpu(Backend& gpu) const {
    std::vector<LogitBias> all_bias;
    std::vector<TokenCount> all_history;
    for (size_t i = 0; i < rows.size(); ++i) {
      all_bias.insert(all_bias.end(), bias[i].begin(), bias[i].end());
      all_history.insert(all_history.end(), history[i].begin(), history[i].end());
    }
    all_bias.emplace_back();  // no array is empty
    all_history.emplace_back();
    const test::DeviceArray<LogitBias> gpu_bias(gpu, all_bias);
    const test::DeviceArray<TokenCount> gpu_history(gpu, all_history);
    std::vector<SampleRow> with_lists = rows;
    size_t num_bias = 0, num_history = 0;
    for (size_t i = 0; i < rows.size(); ++i) {
      set_lists(with_lists[i], bias[i], gpu_bias.data() + num_bias, history[i], gpu_history.data() + num_history);
      num_bias += bias[i].size();
      num_history += history[i].size();
    }
    const test::DeviceArray<SampleRow> gpu_rows(gpu, with_lists);
    const test::DeviceArray<float> gpu_logits(gpu, logits);
    const size_t num_top = rows.size() * static_cast<size_t>(max_logprobs);
    test::DeviceArray<int32_t> token_ids(gpu, rows.size()), top_ids(gpu, num_top + 1);
    test::DeviceArray<float> logprobs(gpu, rows.size()), top_logprobs(gpu, num_top + 1);
    gpu.sample({gpu_logits.data(), gpu_rows.data(), token_ids.data(), logprobs.data(), top_ids.data(), top_logprobs.data(),
                static_cast<int>(rows.size()), vocab_size, max_logprobs});
    Result result{token_ids.host(), logprobs.host(), top_ids.host(), top_logprobs.host(), gpu_logits.host()};
    result.top_ids.pop_back();
    result.top_logprobs.pop_back();
    return result;
  }

 private:
  static void set_lists(SampleRow& row, const std::vector<LogitBias>& bias, const LogitBias* bias_data,
                        const std::vector<TokenCount>& history, const TokenCount* history_data) {
    row.bias = bias.empty() ? nullptr : bias_data;
    row.num_bias = static_cast<int32_t>(bias.size());
    row.history = history.empty() ? nullptr : history_data;
    row.num_history = static_cast<int32_t>(history.size());
  }
};

// Tokens, alternatives and the logits left behind are the CPU's; log-probabilities up to the last bits of exp.
void expect_matches(const Result& actual, const Result& expected) {
  EXPECT_EQ(actual.token_ids, expected.token_ids);
  EXPECT_EQ(actual.top_ids, expected.top_ids);
  EXPECT_TRUE(test::same_bytes(actual.logits, expected.logits));
  ASSERT_EQ(actual.top_logprobs.size(), expected.top_logprobs.size());
  const auto close = [](float a, float b) { return a == b || std::fabs(a - b) <= 1e-6f * std::max(1.0f, std::fabs(b)); };
  for (size_t i = 0; i < expected.logprobs.size(); ++i) {
    EXPECT_TRUE(close(actual.logprobs[i], expected.logprobs[i])) << i << ": " << actual.logprobs[i] << ", " << expected.logprobs[i];
  }
  for (size_t i = 0; i < expected.top_logprobs.size(); ++i) {
    EXPECT_TRUE(close(actual.top_logprobs[i], expected.top_logprobs[i]))
        << i << ": " << actual.top_logprobs[i] << ", " << expected.top_logprobs[i];
  }
}

std::vector<LogitBias> random_bias(test::Random& random, int vocab_size, int count) {
  std::map<int32_t, float> by_id;
  for (int i = 0; i < count; ++i) by_id[random.below(vocab_size)] = random.below(3) == 0 ? -kInfinity : random.uniform(-8.0f, 8.0f);
  std::vector<LogitBias> bias;
  for (const auto& [token_id, value] : by_id) bias.push_back({token_id, value});
  return bias;
}

std::vector<TokenCount> random_history(test::Random& random, int vocab_size, int count) {
  std::map<int32_t, TokenCount> by_id;
  for (int i = 0; i < count; ++i) {
    const int32_t token_id = random.below(vocab_size);
    by_id[token_id] = {token_id, random.below(3), random.below(4)};
  }
  std::vector<TokenCount> history;
  for (const auto& [token_id, seen] : by_id) history.push_back(seen);
  return history;
}

class SampleGpu : public test::GpuTest {
 protected:
  // `num_rows` rows of one setting over distributions from peaked to flat.
  void check_setting(SampleRow row, uint64_t seed, int vocab_size = 2000, int num_rows = 300) {
    test::Random random(seed);
    Case input(vocab_size);
    for (int i = 0; i < num_rows; ++i) {
      const float stddevs[] = {0.1f, 1.0f, 3.0f, 8.0f};
      row.seed = random.next();
      row.draw_idx = random.next();
      input.add(test::random_floats(random, static_cast<size_t>(vocab_size), stddevs[i % 4]), row);
    }
    expect_matches(input.run_gpu(gpu()), input.run_cpu());
  }
};

TEST_F(SampleGpu, Greedy) {
  check_setting(SampleRow{}, 1);
}

TEST_F(SampleGpu, Temperature) {
  SampleRow row;
  for (const float temperature : {1e-9f, 0.3f, 1.0f, 2.5f}) {
    row.temperature = temperature;
    check_setting(row, 2);
  }
}

TEST_F(SampleGpu, TopK) {
  SampleRow row;
  row.temperature = 1.0f;
  for (const int top_k : {1, 2, 50, 1999, 2000, 5000}) {
    row.top_k = top_k;
    check_setting(row, 3);
  }
}

TEST_F(SampleGpu, TopP) {
  SampleRow row;
  row.temperature = 1.0f;
  for (const float top_p : {1e-9f, 0.1f, 0.5f, 0.95f, 0.9999f}) {
    row.top_p = top_p;
    check_setting(row, 4);
  }
}

TEST_F(SampleGpu, MinP) {
  SampleRow row;
  row.temperature = 0.7f;
  for (const float min_p : {0.02f, 0.3f, 0.9f}) {
    row.min_p = min_p;
    check_setting(row, 5);
  }
}

TEST_F(SampleGpu, AllCutsTogether) {
  SampleRow row;
  row.temperature = 1.3f;
  row.top_k = 100;
  row.top_p = 0.8f;
  row.min_p = 0.05f;
  check_setting(row, 6);
}

TEST_F(SampleGpu, FullVocabulary) {
  test::Random random(7);
  Case input(129280);
  input.max_logprobs = 20;
  for (int i = 0; i < 12; ++i) {
    SampleRow row;
    row.temperature = i % 4 == 0 ? 0.0f : 1.0f;
    row.top_k = i % 4 == 2 ? 1000 : 0;
    row.top_p = i % 4 == 3 ? 0.9f : 1.0f;
    row.num_logprobs = i % 3 == 0 ? 20 : i;
    row.repetition_penalty = i % 2 == 0 ? 1.1f : 1.0f;
    row.seed = random.next();
    row.draw_idx = static_cast<uint64_t>(i);
    input.add(test::random_floats(random, 129280, i < 6 ? 3.0f : 1.0f), row, random_bias(random, 129280, 10),
              random_history(random, 129280, 3000));
  }
  expect_matches(input.run_gpu(gpu()), input.run_cpu());
}

TEST_F(SampleGpu, PenaltiesBiasBansAndAlternatives) {
  test::Random random(8);
  for (const int vocab_size : {1000, 1003}) {  // rows that begin at multiples of 16 bytes, and others
    Case input(vocab_size);
    input.max_logprobs = 20;
    for (int i = 0; i < 300; ++i) {
      SampleRow row;
      row.temperature = i % 3 == 0 ? 0.0f : random.uniform(0.2f, 2.0f);
      row.top_k = i % 5 == 0 ? 40 : 0;
      row.top_p = i % 7 == 0 ? 0.9f : 1.0f;
      row.min_p = i % 11 == 0 ? 0.1f : 0.0f;
      row.repetition_penalty = i % 2 == 0 ? 1.0f : random.uniform(0.8f, 1.5f);
      row.presence_penalty = i % 4 == 0 ? 0.0f : random.uniform(-1.0f, 1.0f);
      row.frequency_penalty = i % 4 == 1 ? 0.0f : random.uniform(-0.5f, 0.5f);
      row.num_logprobs = i % 25;
      row.seed = random.next();
      row.draw_idx = static_cast<uint64_t>(i);
      input.add(test::random_floats(random, static_cast<size_t>(vocab_size), 3.0f), row, random_bias(random, vocab_size, i % 9 * 20),
                random_history(random, vocab_size, i % 10 * 70));
    }
    expect_matches(input.run_gpu(gpu()), input.run_cpu());
  }
}

TEST_F(SampleGpu, TiesGoToTheLowerId) {
  // Few distinct logits, zeros of both signs: cuts run through tokens of equal logit.
  test::Random random(9);
  Case input(700);
  input.max_logprobs = 20;
  for (int i = 0; i < 300; ++i) {
    std::vector<float> logits(700);
    for (float& logit : logits) logit = static_cast<float>(random.below(3) - 1) * (random.below(2) == 0 ? 1.0f : -1.0f);
    SampleRow row;
    row.temperature = i % 4 == 0 ? 0.0f : 1.0f;
    row.top_k = i % 3 == 1 ? 1 + random.below(699) : 0;
    row.top_p = i % 3 == 2 ? random.uniform(0.05f, 0.99f) : 1.0f;
    row.num_logprobs = 20;
    row.seed = random.next();
    input.add(logits, row);
  }
  expect_matches(input.run_gpu(gpu()), input.run_cpu());
}

TEST_F(SampleGpu, TopPAtExactMasses) {
  // Probabilities ½, ¼, ⅛, ⅛ up to the rounding of the logits: the set is known on either side of each boundary.
  const float log2 = std::log(2.0f);
  const std::vector<float> logits = {-2 * log2, -3 * log2, -log2, -3 * log2};
  for (const auto& [top_p, allowed] :
       {std::pair{0.4f, std::vector<int32_t>{2}}, {0.7f, {0, 2}}, {0.8f, {0, 1, 2}}, {0.95f, {0, 1, 2, 3}}}) {
    Case input(4);
    for (int i = 0; i < 400; ++i) {
      SampleRow row;
      row.temperature = 1.0f;
      row.top_p = top_p;
      row.draw_idx = static_cast<uint64_t>(i);
      input.add(logits, row);
    }
    const Result result = input.run_gpu(gpu());
    for (int32_t id = 0; id < 4; ++id) {
      const auto count = std::count(result.token_ids.begin(), result.token_ids.end(), id);
      const bool is_allowed = std::find(allowed.begin(), allowed.end(), id) != allowed.end();
      EXPECT_EQ(count > 0, is_allowed) << "top_p " << top_p << ", token " << id;
    }
  }
}

TEST_F(SampleGpu, SmallVocabularies) {
  test::Random random(10);
  for (const int vocab_size : {1, 2, 7, 33}) {
    Case input(vocab_size);
    input.max_logprobs = 9;
    for (int i = 0; i < 40; ++i) {
      SampleRow row;
      row.temperature = i % 2 == 0 ? 0.0f : 1.0f;
      row.top_k = i % 5;
      row.top_p = i % 3 == 0 ? 0.6f : 1.0f;
      row.num_logprobs = i % 10;
      row.seed = random.next();
      input.add(test::random_floats(random, static_cast<size_t>(vocab_size), 2.0f), row);
    }
    expect_matches(input.run_gpu(gpu()), input.run_cpu());
  }
}

TEST_F(SampleGpu, BannedTokensAreNeverDrawn) {
  test::Random random(11);
  Case input(100);
  input.max_logprobs = 20;
  for (int i = 0; i < 200; ++i) {
    std::vector<float> logits(100, -kInfinity);
    for (int j = 0; j < 10; ++j) logits[static_cast<size_t>(random.below(100))] = random.normal();
    SampleRow row;
    row.temperature = 5.0f;
    row.top_k = i % 2 == 0 ? 0 : 50;
    row.num_logprobs = 20;
    row.seed = random.next();
    input.add(logits, row);
  }
  const Result result = input.run_gpu(gpu());
  for (size_t i = 0; i < result.token_ids.size(); ++i)
    EXPECT_GT(input.logits[i * 100 + static_cast<size_t>(result.token_ids[i])], -kInfinity);
  expect_matches(result, input.run_cpu());
}

TEST_F(SampleGpu, HugeLogits) {
  Case input(3);
  input.add({3e38f, 3e38f, -3e38f}, SampleRow{});
  SampleRow row;
  row.temperature = 0.5f;
  row.top_p = 0.9f;
  input.add({3e38f, -3e38f, 3e38f}, row);
  expect_matches(input.run_gpu(gpu()), input.run_cpu());
}

TEST_F(SampleGpu, BadRowsGiveNoTokenAndLeaveTheOthersAlone) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  SampleRow row;
  row.num_logprobs = 2;
  Case input(4);
  input.max_logprobs = 2;
  input.add({0.0f, nan, 1.0f, 0.0f}, row);
  input.add({0.0f, kInfinity, 1.0f, 0.0f}, row);
  input.add({-kInfinity, -kInfinity, -kInfinity, -kInfinity}, row);
  input.add({0.0f, 1.0f, 2.0f, 3.0f}, row, {{4, 1.0f}});
  input.add({0.0f, 1.0f, 2.0f, 3.0f}, row, {{-1, 1.0f}});
  input.add({0.0f, 1.0f, 2.0f, 3.0f}, row, {{3, -2.5f}});
  const Result result = input.run_gpu(gpu());
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(result.token_ids[i], -1);
    EXPECT_TRUE(std::isnan(result.logprobs[i]));
    for (size_t j = 0; j < 2; ++j) {
      EXPECT_EQ(result.top_ids[i * 2 + j], -1);
      EXPECT_EQ(result.top_logprobs[i * 2 + j], -kInfinity);
    }
  }
  EXPECT_EQ(result.token_ids[5], 2);
  EXPECT_EQ(result.top_ids[10], 2);
  EXPECT_EQ(result.top_ids[11], 1);
}

TEST_F(SampleGpu, ARowDoesNotDependOnTheOthers) {
  test::Random random(12);
  const int vocab_size = 5001;
  Case input(vocab_size);
  input.max_logprobs = 7;
  for (int i = 0; i < 40; ++i) {
    SampleRow row;
    row.temperature = i % 3 == 0 ? 0.0f : 1.0f;
    row.top_k = i % 2 == 0 ? 0 : 50;
    row.top_p = i % 5 == 4 ? 0.9f : 1.0f;
    row.seed = random.next();
    row.draw_idx = 17;
    row.num_logprobs = i % 8;
    input.add(test::random_floats(random, static_cast<size_t>(vocab_size), 2.0f), row);
  }
  const Result all = input.run_gpu(gpu());
  for (size_t i = 0; i < 40; ++i) {
    const Result alone = input.only(i).run_gpu(gpu());
    EXPECT_EQ(alone.token_ids[0], all.token_ids[i]);
    EXPECT_EQ(alone.logprobs[0], all.logprobs[i]);
    for (size_t j = 0; j < 7; ++j) {
      EXPECT_EQ(alone.top_ids[j], all.top_ids[i * 7 + j]);
      EXPECT_EQ(alone.top_logprobs[j], all.top_logprobs[i * 7 + j]);
    }
  }
}

TEST_F(SampleGpu, NoRowsAndRefusals) {
  SampleParams params{};
  params.vocab_size = 10;
  gpu().sample(params);
  gpu().synchronize();
  params.vocab_size = 0;
  EXPECT_THROW(gpu().sample(params), Error);
  params.vocab_size = 10'000'000;
  params.num_rows = 1;
  EXPECT_THROW(gpu().sample(params), Error);
  params.vocab_size = 100;
  params.max_logprobs = 1000;
  EXPECT_THROW(gpu().sample(params), Error);
}

}  // namespace
}  // namespace dsv4
