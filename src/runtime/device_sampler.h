// Draws from rows of logits in a backend's memory with the settings of samplers, which live on the host.
#pragma once

#include <span>
#include <vector>

#include "ops/buffer.h"
#include "runtime/sampler.h"

namespace dsv4 {

// Moves settings, biases and histories to the backend, and what was drawn back. Memory grows with the longest lists.
class DeviceSampler {
 public:
  explicit DeviceSampler(Backend& backend) : backend_(backend) {}

  // One token per row of `logits` [rows.size(), vocab_size] (backend memory, changed). token_id is −1 where a row has no finite logit,
  // unless the backend throws.
  std::vector<SampledToken> draw(float* logits, int vocab_size, std::span<const SampleRow> rows);

 private:
  Backend& backend_;
  std::vector<uint8_t> staging_;  // rows, then the lists they point to
  Buffer input_;                  // the same
  Buffer output_;                 // ids, log-probabilities, then both of the alternatives
  std::vector<uint8_t> result_;   // the same
};

}  // namespace dsv4
