#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "backend/cpu/ops.h"
#include "base/error.h"
#include "base/philox.h"

namespace dsv4::cpu {
namespace {

// Logit bias, then the penalties.
void adjust_logits(const SampleRow& row, std::span<float> logits) {
  const auto at = [&](int32_t token_id) -> float& {
    require(token_id >= 0 && static_cast<size_t>(token_id) < logits.size(), "sample: token id {}, expected 0…{}", token_id,
            logits.size() - 1);
    return logits[static_cast<size_t>(token_id)];
  };
  for (int i = 0; i < row.num_bias; ++i) at(row.bias[i].token_id) += row.bias[i].bias;
  for (int i = 0; i < row.num_history; ++i) {
    const TokenCount& seen = row.history[i];
    float& logit = at(seen.token_id);
    if (seen.prompt_count + seen.completion_count > 0) {
      logit = logit > 0.0f ? logit / row.repetition_penalty : logit * row.repetition_penalty;
    }
    if (seen.completion_count > 0) logit -= row.presence_penalty + row.frequency_penalty * static_cast<float>(seen.completion_count);
  }
}

// The lowest id of the largest logit. Throws unless every logit is a number and at least one is finite.
int32_t checked_argmax(std::span<const float> logits, int row_idx) {
  size_t best = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    require(!std::isnan(logits[i]) && logits[i] != std::numeric_limits<float>::infinity(),
            "sample: row {} has logit {} at token id {}, expected a finite value or -inf", row_idx, logits[i], i);
    if (logits[i] > logits[best]) best = i;
  }
  require(std::isfinite(logits[best]), "sample: row {} bans every token, expected at least one finite logit", row_idx);
  return static_cast<int32_t>(best);
}

// Turns a logit into a natural log-probability: logit − maximum − log Σ e^(logit − maximum), without ever forming maximum + log Σ.
struct LogSoftmax {
  double maximum;
  double log_sum;

  // The sum is in double, so that a large vocabulary keeps its small terms.
  LogSoftmax(std::span<const float> logits, float largest) : maximum(largest) {
    double sum = 0.0;
    for (const float logit : logits) sum += std::exp(logit - largest);
    log_sum = std::log(sum);
  }
  float operator()(float logit) const { return static_cast<float>(static_cast<double>(logit) - maximum - log_sum); }
};

void write_top_logprobs(const SampleParams& params, int row_idx, std::span<const float> logits, const LogSoftmax& log_softmax) {
  int32_t* ids = params.top_ids + static_cast<int64_t>(row_idx) * params.max_logprobs;
  float* logprobs = params.top_logprobs + static_cast<int64_t>(row_idx) * params.max_logprobs;
  std::fill_n(ids, params.max_logprobs, -1);
  std::fill_n(logprobs, params.max_logprobs, -std::numeric_limits<float>::infinity());
  const int wanted = std::min({params.rows[row_idx].num_logprobs, params.max_logprobs, params.vocab_size});
  if (wanted <= 0) return;
  std::vector<int32_t> order(logits.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  std::partial_sort(order.begin(), order.begin() + wanted, order.end(),
                    [&](int32_t a, int32_t b) { return logits[a] > logits[b] || (logits[a] == logits[b] && a < b); });
  for (int i = 0; i < wanted; ++i) {
    ids[i] = order[i];
    logprobs[i] = log_softmax(logits[order[i]]);
  }
}

// A token that may be drawn, and its probability at the row's temperature up to a common factor (the most likely token has 1).
struct Candidate {
  int32_t token_id;
  float logit;
  float probability;
};

// Larger logit first, equal logits by lower id.
bool more_likely(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.token_id < b.token_id);
}

// Keeps the smallest set of most likely candidates that holds the share top_p of the mass. A search by halves: the candidates before
// `begin` hold too little, those before `end` enough (or are all there are), and only the part between them is put in order further.
void cut_top_p(std::vector<Candidate>& candidates, float top_p) {
  const auto mass_of = [&](size_t first, size_t last) {
    double mass = 0.0;
    for (size_t i = first; i < last; ++i) mass += candidates[i].probability;
    return mass;
  };
  const double wanted = mass_of(0, candidates.size()) * top_p;
  double mass_before = 0.0;
  size_t begin = 0, end = candidates.size();
  while (end - begin > 1) {
    const size_t middle = begin + (end - begin) / 2;
    const auto first = candidates.begin();
    std::nth_element(first + static_cast<ptrdiff_t>(begin), first + static_cast<ptrdiff_t>(middle), first + static_cast<ptrdiff_t>(end),
                     more_likely);
    const double mass = mass_before + mass_of(begin, middle);
    if (mass >= wanted) {
      end = middle;
    } else {
      mass_before = mass;
      begin = middle;
    }
  }
  candidates.resize(end);
}

// argmax p_i / x_i with x_i = −log(u_i) ~ Exp(1), after temperature, top-k, top-p and min-p.
int32_t draw(const SampleRow& row, std::span<const float> logits, int32_t most_likely) {
  const float maximum = logits[static_cast<size_t>(most_likely)];
  const float temperature = std::max(row.temperature, 1e-5f);
  std::vector<Candidate> candidates;
  candidates.reserve(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isfinite(logits[i])) candidates.push_back({static_cast<int32_t>(i), logits[i], std::exp((logits[i] - maximum) / temperature)});
  }
  if (row.top_k > 0 && static_cast<size_t>(row.top_k) < candidates.size()) {
    std::nth_element(candidates.begin(), candidates.begin() + row.top_k, candidates.end(), more_likely);
    candidates.resize(static_cast<size_t>(row.top_k));
  }
  if (row.top_p < 1.0f) cut_top_p(candidates, row.top_p);

  int32_t drawn = most_likely;
  double largest = -1.0;
  for (const Candidate& candidate : candidates) {
    if (candidate.probability < row.min_p) continue;
    const double u = sample_uniform(candidate.token_id, row.draw_idx, row.seed);
    // −log(u) ≥ 1 − u: most candidates are out of the race before the logarithm.
    if (candidate.probability < largest * (1.0 - u)) continue;
    const double ratio = candidate.probability / std::max(-std::log(u), 0x1p-60);  // u = 1 gives x = 0
    if (ratio > largest || (ratio == largest && candidate.token_id < drawn)) {
      drawn = candidate.token_id;
      largest = ratio;
    }
  }
  return drawn;
}

}  // namespace

void sample(const SampleParams& params) {
  require(params.vocab_size > 0, "sample: vocab_size is {}, expected ≥ 1", params.vocab_size);
  for (int row_idx = 0; row_idx < params.num_rows; ++row_idx) {
    const SampleRow& row = params.rows[row_idx];
    const std::span<float> logits(params.logits + static_cast<int64_t>(row_idx) * params.vocab_size,
                                  static_cast<size_t>(params.vocab_size));
    adjust_logits(row, logits);
    const int32_t most_likely = checked_argmax(logits, row_idx);
    const LogSoftmax log_softmax(logits, logits[static_cast<size_t>(most_likely)]);
    if (params.max_logprobs > 0) write_top_logprobs(params, row_idx, logits, log_softmax);
    const int32_t token_id = row.temperature > 0.0f ? draw(row, logits, most_likely) : most_likely;
    params.token_ids[row_idx] = token_id;
    params.logprobs[row_idx] = log_softmax(logits[static_cast<size_t>(token_id)]);
  }
}

}  // namespace dsv4::cpu
