#include "runtime/perplexity.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "base/error.h"
#include "runtime/capacity.h"

namespace dsv4 {
namespace {

constexpr int kLogitsRows = 32;

void check(const ModelConfig& config, std::span<const int32_t> token_ids, const PerplexityOptions& options) {
  require(!token_ids.empty(), "no tokens to predict");
  require(options.window >= 1 && options.window < config.max_position_embeddings,
          "window: {} tokens, expected 1 to {} (the context less BOS)", options.window, config.max_position_embeddings - 1);
  require(options.step_tokens >= 1, "step tokens: {}, expected 1 or more", options.step_tokens);
  for (int32_t token_id : token_ids) {
    require(token_id >= 0 && token_id < config.vocab_size, "token id {}: expected 0 to {}", token_id, config.vocab_size - 1);
  }
}

// −log2 of the probability of `token_id` under `logits` [vocab_size].
double surprise_bits(std::span<const float> logits, int32_t token_id) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (float logit : logits) sum += std::exp(static_cast<double>(logit) - largest);
  return (largest + std::log(sum) - static_cast<double>(logits[static_cast<size_t>(token_id)])) / std::log(2.0);
}

int32_t most_likely(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// The model and one sequence's caches, used again for every window.
class Predictor {
 public:
  Predictor(const Checkpoint& checkpoint, Backend& backend, int window, int step_tokens, bool with_mtp, const LoadProgress& progress)
      : config_(checkpoint.config()),
        backend_(backend),
        step_tokens_(std::min(step_tokens, window + 1)),
        with_mtp_(with_mtp),
        model_(config_, weights(checkpoint, backend, window, progress), backend, {step_tokens_, 1, kLogitsRows}),
        pages_(static_cast<size_t>((window + kPagePositions) / kPagePositions)),
        cache_(config_, {1, static_cast<int>(pages_.size()), step_tokens_}, with_mtp, backend),
        row_logits_(static_cast<size_t>(kLogitsRows) * static_cast<size_t>(config_.vocab_size)) {
    require(!with_mtp || model_.has_mtp(), "this checkpoint has no MTP block");
    std::iota(pages_.begin(), pages_.end(), 0);
  }

  void predict(std::span<const int32_t> window, PerplexityReport& report) {
    tokens_.assign(1, config_.bos_token_id);
    tokens_.insert(tokens_.end(), window.begin(), window.end());
    main_best_.clear();
    mtp_best_.clear();
    const int num_tokens = static_cast<int>(tokens_.size());
    for (int begin = 0; begin < num_tokens; begin += step_tokens_) run_step(begin, std::min(num_tokens - begin, step_tokens_), report);
    report.num_tokens += static_cast<int64_t>(window.size());
    if (with_mtp_) count_mtp(report.mtp);
  }

 private:
  // After the check that they fit.
  ModelWeights weights(const Checkpoint& checkpoint, Backend& backend, int window, const LoadProgress& progress) const {
    if (const auto free_bytes = static_cast<int64_t>(backend.free_memory()); free_bytes > 0) {
      MemoryRequest request;
      request.context = window + 1;
      request.max_step_tokens = step_tokens_;
      request.max_logits_rows = kLogitsRows;
      plan_device(config_, tensor_specs(checkpoint), request, free_bytes);
    }
    return load_weights(checkpoint, backend, progress);
  }

  void run_step(int begin, int count, PerplexityReport& report) {
    const std::span<const int32_t> ids = std::span<const int32_t>(tokens_).subspan(static_cast<size_t>(begin), static_cast<size_t>(count));
    step_.clear();
    step_.add_sequence(0, begin, ids, pages_);
    model_.forward(step_, cache_);
    for_logits(count, false, [&](int row, std::span<const float> logits) {
      const size_t next = static_cast<size_t>(begin + row) + 1;
      if (next < tokens_.size()) report.bits += surprise_bits(logits, tokens_[next]);
      main_best_.push_back(most_likely(logits));
    });
    if (!with_mtp_) return;
    std::vector<int32_t> next_ids(ids.begin() + 1, ids.end());
    const size_t next = static_cast<size_t>(begin + count);
    // Behind the window's last token there is none; what is predicted from that row is not counted.
    next_ids.push_back(next < tokens_.size() ? tokens_[next] : config_.eos_token_id);
    step_.clear();
    step_.add_sequence(0, begin, next_ids, pages_);
    model_.forward_mtp(step_, cache_);
    for_logits(count, true, [&](int, std::span<const float> logits) { mtp_best_.push_back(most_likely(logits)); });
  }

  // Calls `on_row(row, logits)` for all rows of the last step.
  template <typename Function>
  void for_logits(int num_rows, bool of_mtp, Function&& on_row) {
    const size_t vocab_size = static_cast<size_t>(config_.vocab_size);
    for (int begin = 0; begin < num_rows; begin += kLogitsRows) {
      std::vector<int32_t> rows(static_cast<size_t>(std::min(kLogitsRows, num_rows - begin)));
      std::iota(rows.begin(), rows.end(), begin);
      const float* logits = of_mtp ? model_.mtp_logits(rows) : model_.logits(rows);
      backend_.copy_to_host(row_logits_.data(), logits, rows.size() * vocab_size * sizeof(float));
      for (size_t i = 0; i < rows.size(); ++i) on_row(rows[i], std::span<const float>(row_logits_).subspan(i * vocab_size, vocab_size));
    }
  }

  // The block's row t predicts token t + 2, as the main model's row t + 1 does.
  void count_mtp(MtpReport& report) const {
    for (size_t row = 0; row + 2 < tokens_.size(); ++row) {
      ++report.num_predictions;
      if (mtp_best_[row] == tokens_[row + 2]) ++report.num_equal_text;
      if (mtp_best_[row] == main_best_[row + 1]) ++report.num_equal_main;
    }
  }

  const ModelConfig& config_;
  Backend& backend_;
  int step_tokens_;
  bool with_mtp_;
  Model model_;
  std::vector<int32_t> pages_;
  KvCache cache_;
  std::vector<float> row_logits_;  // [kLogitsRows, vocab_size]
  StepInput step_;
  std::vector<int32_t> tokens_;     // BOS and the window
  std::vector<int32_t> main_best_;  // most likely next token, by row
  std::vector<int32_t> mtp_best_;
};

}  // namespace

PerplexityReport measure_perplexity(const Checkpoint& checkpoint, Backend& backend, std::span<const int32_t> token_ids,
                                    const PerplexityOptions& options) {
  check(checkpoint.config(), token_ids, options);
  const size_t window = std::min(static_cast<size_t>(options.window), token_ids.size());
  Predictor predictor(checkpoint, backend, static_cast<int>(window), options.step_tokens, options.with_mtp, options.progress);
  PerplexityReport report;
  for (size_t begin = 0; begin < token_ids.size(); begin += window) {
    predictor.predict(token_ids.subspan(begin, std::min(window, token_ids.size() - begin)), report);
  }
  return report;
}

}  // namespace dsv4
