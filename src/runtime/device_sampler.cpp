#include "runtime/device_sampler.h"

#include <algorithm>
#include <cstring>

namespace dsv4 {
namespace {

static_assert(alignof(LogitBias) == 4 && alignof(TokenCount) == 4 && sizeof(float) == sizeof(int32_t));

// At least `bytes`, twice as many where it has to grow.
void reserve(Buffer& buffer, size_t bytes, Backend& backend) {
  if (buffer.bytes() >= bytes) return;
  buffer = Buffer();
  buffer = Buffer(backend, 2 * bytes);
}

void append(std::vector<uint8_t>& bytes, const void* values, size_t count) {
  const size_t at = bytes.size();
  bytes.resize(at + count);
  if (count > 0) std::memcpy(bytes.data() + at, values, count);
}

}  // namespace

std::vector<SampledToken> DeviceSampler::draw(float* logits, int vocab_size, std::span<const SampleRow> rows) {
  if (rows.empty()) return {};
  const size_t num_rows = rows.size();
  size_t input_bytes = rows.size_bytes();
  int max_logprobs = 0;
  for (const SampleRow& row : rows) {
    input_bytes += static_cast<size_t>(row.num_bias) * sizeof(LogitBias) + static_cast<size_t>(row.num_history) * sizeof(TokenCount);
    max_logprobs = std::max(max_logprobs, row.num_logprobs);
  }
  reserve(input_, input_bytes, backend_);

  std::vector<SampleRow> staged(rows.begin(), rows.end());
  staging_.assign(rows.size_bytes(), 0);
  const uint8_t* input = input_.as<uint8_t>();
  for (SampleRow& row : staged) {
    const LogitBias* bias = row.bias;
    row.bias = reinterpret_cast<const LogitBias*>(input + staging_.size());
    append(staging_, bias, static_cast<size_t>(row.num_bias) * sizeof(LogitBias));
    const TokenCount* history = row.history;
    row.history = reinterpret_cast<const TokenCount*>(input + staging_.size());
    append(staging_, history, static_cast<size_t>(row.num_history) * sizeof(TokenCount));
  }
  std::memcpy(staging_.data(), staged.data(), rows.size_bytes());
  backend_.copy_from_host(input_.as<void>(), staging_.data(), staging_.size());

  const size_t num_alternatives = num_rows * static_cast<size_t>(max_logprobs);
  const size_t output_bytes = 2 * (num_rows + num_alternatives) * sizeof(int32_t);
  reserve(output_, output_bytes, backend_);
  int32_t* ids = output_.as<int32_t>();
  float* logprobs = output_.as<float>() + num_rows;
  int32_t* top_ids = ids + 2 * num_rows;
  float* top_logprobs = logprobs + num_rows + num_alternatives;
  backend_.sample({logits, input_.as<SampleRow>(), ids, logprobs, max_logprobs > 0 ? top_ids : nullptr,
                   max_logprobs > 0 ? top_logprobs : nullptr, static_cast<int>(num_rows), vocab_size, max_logprobs});
  result_.resize(output_bytes);
  backend_.copy_to_host(result_.data(), output_.as<void>(), output_bytes);

  const auto word = [&](size_t idx, auto& value) { std::memcpy(&value, result_.data() + idx * sizeof(int32_t), sizeof(value)); };
  std::vector<SampledToken> sampled(num_rows);
  for (size_t i = 0; i < num_rows; ++i) {
    word(i, sampled[i].token_id);
    word(num_rows + i, sampled[i].logprob);
    for (size_t j = 0; j < static_cast<size_t>(rows[i].num_logprobs); ++j) {
      const size_t at = 2 * num_rows + i * static_cast<size_t>(max_logprobs) + j;
      TokenLogprob alternative;
      word(at, alternative.token_id);
      word(at + num_alternatives, alternative.logprob);
      if (alternative.token_id >= 0) sampled[i].top.push_back(alternative);
    }
  }
  return sampled;
}

}  // namespace dsv4
