// A golden file: what the official reference computes with a small checkpoint, tensor by tensor.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/safetensors.h"

namespace dsv4 {

// Logits [num_rows, vocab_size], row-major.
struct GoldenLogits {
  std::vector<float> values;
  int num_rows = 0;
};

// Prefill outputs of one layer.
struct GoldenLayer {
  std::vector<Bf16> streams;  // [prefill_len, hc_mult, hidden_size] after the layer
  std::vector<int32_t> topk;  // [prefill_len, topk_width] selected entries, −1 = none; empty where the layer selects nothing
  int topk_width = 0;
};

struct GoldenGreedy {
  std::vector<int32_t> prompt;
  std::vector<int32_t> tokens;
};

// A unit vector for the scored router of one layer.
struct GoldenRouter {
  int layer_idx = 0;
  int num_rows = 0;
  std::vector<Bf16> input;       // [num_rows, hidden_size]
  std::vector<float> bias;       // [num_experts]
  std::vector<int32_t> experts;  // [num_rows, num_experts_per_tok]
  std::vector<float> weights;    // [num_rows, num_experts_per_tok]
};

struct Golden {
  std::vector<int32_t> input_ids;
  int prefill_len = 0;  // the first tokens of input_ids, computed at once; the rest are fed one at a time
  GoldenLogits prefill_logits;
  GoldenLogits decode_logits;
  std::vector<GoldenLayer> layers;  // empty streams where the file has none
  std::vector<int32_t> mtp_next_ids;
  std::optional<GoldenLogits> mtp_logits;
  std::optional<GoldenGreedy> greedy;
  std::optional<GoldenRouter> router;

  // Reads and checks a file against the model's shapes; `num_experts` has an entry per layer. Throws Error naming the tensor that does not
  // fit.
  static Golden load(const std::filesystem::path& file, const ModelConfig& config, const std::vector<int>& num_experts);
};

// How far the reference is from itself on another device: the yardstick of whole-model comparisons (variation.json).
struct Variation {
  struct Part {
    double median = 1.0;
    double p10 = 1.0;
    double argmax = 1.0;
  };
  Part prefill;
  Part decode;

  // nullopt if there is no such file; throws Error if it cannot be used.
  static std::optional<Variation> load(const std::filesystem::path& file);
};

}  // namespace dsv4
