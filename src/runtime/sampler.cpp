#include "runtime/sampler.h"

#include <cmath>

#include "base/error.h"

namespace dsv4 {

void validate(const SamplingParams& params, int vocab_size) {
  const auto finite = [](float value) { return std::isfinite(value); };
  require(finite(params.temperature) && params.temperature >= 0.0f, "temperature: {}, expected 0 or more", params.temperature);
  require(params.top_k >= 0, "top_k: {}, expected 0 (off) or more", params.top_k);
  require(params.top_p > 0.0f && params.top_p <= 1.0f, "top_p: {}, expected more than 0 and at most 1", params.top_p);
  require(params.min_p >= 0.0f && params.min_p < 1.0f, "min_p: {}, expected 0 or more and less than 1", params.min_p);
  require(finite(params.repetition_penalty) && params.repetition_penalty > 0.0f, "repetition_penalty: {}, expected more than 0",
          params.repetition_penalty);
  require(finite(params.presence_penalty), "presence_penalty: {}, expected a finite number", params.presence_penalty);
  require(finite(params.frequency_penalty), "frequency_penalty: {}, expected a finite number", params.frequency_penalty);
  require(params.num_logprobs >= 0 && params.num_logprobs <= kMaxLogprobs, "logprobs: {}, expected 0 to {}", params.num_logprobs,
          kMaxLogprobs);
  int num_banned = 0;
  for (const auto& [token_id, bias] : params.logit_bias) {
    require(token_id >= 0 && token_id < vocab_size, "logit_bias: token id {}, expected 0 to {}", token_id, vocab_size - 1);
    require(bias < HUGE_VALF, "logit_bias: {} for token id {}, expected a number below infinity", bias, token_id);
    if (std::isinf(bias)) ++num_banned;
  }
  require(num_banned < vocab_size, "logit_bias: bans all {} tokens", vocab_size);
}

Sampler::Sampler(SamplingParams params, int vocab_size) {
  set_params(std::move(params), vocab_size);
}

void Sampler::set_params(SamplingParams params, int vocab_size) {
  validate(params, vocab_size);
  params_ = std::move(params);
  bias_.clear();
  for (const auto& [token_id, bias] : params_.logit_bias) bias_.push_back({token_id, bias});
}

std::optional<SampleRow> self_contained(const SampleRow& row) {
  const bool is_plain = row.num_bias == 0 && row.num_logprobs == 0 && row.repetition_penalty == 1.0f && row.presence_penalty == 0.0f &&
                        row.frequency_penalty == 0.0f;
  if (!is_plain) return std::nullopt;
  SampleRow alone = row;
  alone.bias = nullptr;
  alone.history = nullptr;
  alone.num_history = 0;
  return alone;
}

TokenCount& Sampler::count(int32_t token_id) {
  const auto [position, added] = history_idx_.try_emplace(token_id, history_.size());
  if (added) history_.push_back({token_id, 0, 0});
  return history_[position->second];
}

void Sampler::observe_prompt(std::span<const int32_t> token_ids) {
  for (int32_t token_id : token_ids) ++count(token_id).prompt_count;
}

void Sampler::observe_completion(int32_t token_id) {
  ++count(token_id).completion_count;
  ++draw_idx_;
}

SampleRow Sampler::row() const {
  SampleRow row;
  row.temperature = params_.temperature;
  row.top_k = params_.top_k;
  row.top_p = params_.top_p;
  row.min_p = params_.min_p;
  row.repetition_penalty = params_.repetition_penalty;
  row.presence_penalty = params_.presence_penalty;
  row.frequency_penalty = params_.frequency_penalty;
  row.seed = params_.seed;
  row.draw_idx = draw_idx_;
  row.bias = bias_.data();
  row.num_bias = static_cast<int32_t>(bias_.size());
  row.history = history_.data();
  row.num_history = static_cast<int32_t>(history_.size());
  row.num_logprobs = params_.num_logprobs;
  return row;
}

}  // namespace dsv4
