#include "runtime/verification.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "model/forward.h"
#include "runtime/capacity.h"
#include "runtime/golden.h"

namespace dsv4 {
namespace {

constexpr double kLayerMedian = 0.9999;
constexpr double kLayerOverlap = 0.97;
constexpr double kVariationFactor = 2.0;
constexpr double kArgmaxSlack = 0.05;
constexpr double kRouterWeightTolerance = 1e-5;  // relative; the order of the fp32 sum is free

double to_double(float x) {
  return x;
}
double to_double(Bf16 x) {
  return to_float(x);
}

template <typename T>
double cosine(const T* a, const T* b, size_t count) {
  double ab = 0.0, aa = 0.0, bb = 0.0;
  for (size_t i = 0; i < count; ++i) {
    const double x = to_double(a[i]), y = to_double(b[i]);
    ab += x * y;
    aa += x * x;
    bb += y * y;
  }
  if (aa == 0.0 && bb == 0.0) return 1.0;
  const double value = ab / std::sqrt(aa * bb);
  return std::isfinite(value) ? value : -1.0;  // a zero, infinite or NaN row on one side only
}

// Linear interpolation between order statistics, as numpy.quantile.
double quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  const double place = q * static_cast<double>(values.size() - 1);
  const size_t below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (values[above] - values[below]) * (place - static_cast<double>(below));
}

// Accumulates rows of logits against golden ones.
class LogitsComparison {
 public:
  LogitsComparison(const GoldenLogits& golden, int vocab_size) : golden_(golden), vocab_size_(static_cast<size_t>(vocab_size)) {}

  void add(const float* logits, int num_rows) {
    for (int row = 0; row < num_rows; ++row) {
      const float* mine = logits + static_cast<size_t>(row) * vocab_size_;
      const float* theirs = golden_.values.data() + cosines_.size() * vocab_size_;
      cosines_.push_back(cosine(mine, theirs, vocab_size_));
      num_equal_ += std::max_element(mine, mine + vocab_size_) - mine == std::max_element(theirs, theirs + vocab_size_) - theirs;
    }
  }

  LogitsReport report() const {
    return {static_cast<int>(cosines_.size()), quantile(cosines_, 0.5), quantile(cosines_, 0.1),
            *std::min_element(cosines_.begin(), cosines_.end()), static_cast<double>(num_equal_) / static_cast<double>(cosines_.size())};
  }

 private:
  const GoldenLogits& golden_;
  size_t vocab_size_;
  std::vector<double> cosines_;
  int64_t num_equal_ = 0;
};

// Compares a CSA layer's selection with the golden one, row by row.
class SelectionComparison final : public LayerObserver {
 public:
  SelectionComparison(Backend& backend, const GoldenLayer& golden, int topk)
      : backend_(backend), golden_(golden), topk_(static_cast<size_t>(topk)) {}

  void on_selection(int, int row_begin, int row_end, const Bf16* scores, int64_t score_stride, const int32_t* selected) override {
    if (golden_.topk.empty()) return;
    const size_t num_rows = static_cast<size_t>(row_end - row_begin);
    std::vector<Bf16> host_scores(num_rows * static_cast<size_t>(score_stride));
    std::vector<int32_t> host_selected(num_rows * topk_);
    backend_.copy_to_host(host_scores.data(), scores, host_scores.size() * sizeof(Bf16));
    backend_.copy_to_host(host_selected.data(), selected + static_cast<size_t>(row_begin) * topk_, host_selected.size() * sizeof(int32_t));
    for (size_t i = 0; i < num_rows; ++i) {
      compare_row(static_cast<size_t>(row_begin) + i, host_selected.data() + i * topk_,
                  host_scores.data() + i * static_cast<size_t>(score_stride));
    }
  }

  void on_layer(int, int, const Bf16*) override {}

  // Mean over the rows that select anything of the share of the golden entries found.
  std::optional<double> strict_overlap() const { return mean(strict_sum_); }
  // The same where entries of equal score may stand for each other: which of them the reference takes is not specified.
  std::optional<double> overlap() const { return mean(sum_); }

 private:
  std::optional<double> mean(double sum) const {
    if (golden_.topk.empty()) return std::nullopt;
    return num_rows_ == 0 ? 1.0 : sum / num_rows_;
  }

  static std::vector<int32_t> entries(const int32_t* list, size_t count) {
    std::vector<int32_t> sorted;
    std::copy_if(list, list + count, std::back_inserter(sorted), [](int32_t entry) { return entry >= 0; });
    std::sort(sorted.begin(), sorted.end());
    return sorted;
  }

  void compare_row(size_t row, const int32_t* selected, const Bf16* scores) {
    const size_t width = static_cast<size_t>(golden_.topk_width);
    const std::vector<int32_t> theirs = entries(golden_.topk.data() + row * width, width);
    const std::vector<int32_t> mine = entries(selected, topk_);
    if (theirs.empty()) return;
    std::vector<int32_t> common, missing;
    std::set_intersection(mine.begin(), mine.end(), theirs.begin(), theirs.end(), std::back_inserter(common));
    std::set_difference(theirs.begin(), theirs.end(), mine.begin(), mine.end(), std::back_inserter(missing));
    double found = static_cast<double>(common.size());
    strict_sum_ += found / static_cast<double>(theirs.size());
    // Rows that see at most topk entries take them all and have no scores.
    if (!missing.empty() && (row + 1) / kCsaRatio > topk_) {
      float lowest = to_float(scores[mine.front()]);
      for (int32_t entry : mine) lowest = std::min(lowest, to_float(scores[entry]));
      const auto is_lowest = [&](int32_t entry) { return to_float(scores[entry]) == lowest; };
      const auto replaceable = std::count_if(mine.begin(), mine.end(), is_lowest) - std::count_if(common.begin(), common.end(), is_lowest);
      found += static_cast<double>(std::min(std::count_if(missing.begin(), missing.end(), is_lowest), replaceable));
    }
    sum_ += found / static_cast<double>(theirs.size());
    ++num_rows_;
  }

  Backend& backend_;
  const GoldenLayer& golden_;
  size_t topk_;
  double strict_sum_ = 0.0;
  double sum_ = 0.0;
  int num_rows_ = 0;
};

class Verification {
 public:
  Verification(const VerifyOptions& options, Backend& backend)
      : backend_(backend),
        checkpoint_(Checkpoint::open(options.model_dir)),
        golden_(Golden::load(options.golden_file, config(), checkpoint_.num_experts())),
        variation_(Variation::load(options.golden_file.parent_path() / "variation.json")),
        num_positions_(longest_sequence()),
        model_(config(), weights(options.progress), backend, {num_positions_, 1, kLogitsRows}),
        pages_(static_cast<size_t>((num_positions_ + kPagePositions - 1) / kPagePositions)) {
    std::iota(pages_.begin(), pages_.end(), 0);
  }

  VerifyReport run() {
    for (int layer_idx = 0; layer_idx < config().num_hidden_layers; ++layer_idx) check_layer(layer_idx);
    check_prefill_and_decode();
    check_greedy();
    check_router();
    judge();
    return std::move(report_);
  }

 private:
  static constexpr int kLogitsRows = 16;

  const ModelConfig& config() const { return checkpoint_.config(); }

  int longest_sequence() const {
    size_t longest = std::max<size_t>(golden_.input_ids.size(), golden_.router ? static_cast<size_t>(golden_.router->num_rows) : 0);
    if (golden_.greedy) longest = std::max(longest, golden_.greedy->prompt.size() + golden_.greedy->tokens.size());
    return static_cast<int>(longest);
  }

  // After the check that they fit.
  ModelWeights weights(const LoadProgress& progress) const {
    if (const auto free_bytes = static_cast<int64_t>(backend_.free_memory()); free_bytes > 0) {
      MemoryRequest request;
      request.context = num_positions_;
      request.max_step_tokens = num_positions_;
      request.max_logits_rows = kLogitsRows;
      plan_device(config(), tensor_specs(checkpoint_), request, free_bytes);
    }
    return load_weights(checkpoint_, backend_, progress);
  }

  std::unique_ptr<KvCache> fresh_cache() {
    const KvCacheOptions options{1, static_cast<int>(pages_.size()), num_positions_};
    return std::make_unique<KvCache>(config(), options, model_.has_mtp(), backend_);
  }

  const StepInput& step(int first_position, std::span<const int32_t> token_ids) {
    step_.clear();
    step_.add_sequence(0, first_position, token_ids, pages_);
    return step_;
  }

  std::span<const int32_t> prompt() const { return std::span(golden_.input_ids).first(static_cast<size_t>(golden_.prefill_len)); }

  // Streams before layer 0: the embedding, repeated.
  std::vector<Bf16> embedded() const {
    const size_t hidden_size = static_cast<size_t>(config().hidden_size);
    const Bf16* table = checkpoint_.tensor("embed.weight").as<Bf16>();
    std::vector<Bf16> streams;
    for (int32_t id : prompt()) {
      const Bf16* row = table + static_cast<size_t>(id) * hidden_size;
      for (int stream = 0; stream < config().hc_mult; ++stream) streams.insert(streams.end(), row, row + hidden_size);
    }
    return streams;
  }

  void check_layer(int layer_idx) {
    const GoldenLayer& golden = golden_.layers[static_cast<size_t>(layer_idx)];
    if (golden.streams.empty() || (layer_idx > 0 && golden_.layers[static_cast<size_t>(layer_idx) - 1].streams.empty())) return;
    const std::vector<Bf16> input = layer_idx == 0 ? embedded() : golden_.layers[static_cast<size_t>(layer_idx) - 1].streams;
    std::vector<Bf16> output(input.size());
    SelectionComparison selection(backend_, golden, config().index_topk);
    model_.set_observer(&selection);
    const auto cache = fresh_cache();
    model_.forward_layer(layer_idx, step(0, prompt()), *cache, input.data(), output.data());
    model_.set_observer(nullptr);

    const size_t row_size = static_cast<size_t>(config().hc_mult) * static_cast<size_t>(config().hidden_size);
    std::vector<double> cosines;
    for (size_t at = 0; at < output.size(); at += row_size) cosines.push_back(cosine(&output[at], &golden.streams[at], row_size));
    const auto worst = std::min_element(cosines.begin(), cosines.end());
    report_.layers.push_back({layer_idx, quantile(cosines, 0.5), quantile(cosines, 0.01), *worst, static_cast<int>(worst - cosines.begin()),
                              selection.overlap(), selection.strict_overlap()});
  }

  // Adds the logits of all rows of the last step.
  void add_all_rows(LogitsComparison& comparison, int num_rows, bool mtp) {
    for (int begin = 0; begin < num_rows; begin += kLogitsRows) {
      std::vector<int32_t> rows(static_cast<size_t>(std::min(kLogitsRows, num_rows - begin)));
      std::iota(rows.begin(), rows.end(), begin);
      const float* device_logits = mtp ? model_.mtp_logits(rows) : model_.logits(rows);
      std::vector<float> logits(rows.size() * static_cast<size_t>(config().vocab_size));
      backend_.copy_to_host(logits.data(), device_logits, logits.size() * sizeof(float));
      comparison.add(logits.data(), static_cast<int>(rows.size()));
    }
  }

  void check_prefill_and_decode() {
    const auto cache = fresh_cache();
    model_.forward(step(0, prompt()), *cache);
    LogitsComparison prefill(golden_.prefill_logits, config().vocab_size);
    add_all_rows(prefill, golden_.prefill_len, false);
    report_.prefill = prefill.report();

    if (golden_.mtp_logits && model_.has_mtp()) {
      model_.forward_mtp(step(0, golden_.mtp_next_ids), *cache);
      LogitsComparison mtp(*golden_.mtp_logits, config().vocab_size);
      add_all_rows(mtp, golden_.prefill_len, true);
      report_.mtp = mtp.report();
    }

    if (golden_.decode_logits.num_rows == 0) return;
    LogitsComparison decode(golden_.decode_logits, config().vocab_size);
    for (int position = golden_.prefill_len; position < static_cast<int>(golden_.input_ids.size()); ++position) {
      model_.forward(step(position, std::span(golden_.input_ids).subspan(static_cast<size_t>(position), 1)), *cache);
      add_all_rows(decode, 1, false);
    }
    report_.decode = decode.report();
  }

  void check_greedy() {
    if (!golden_.greedy || golden_.greedy->prompt.empty()) return;
    const auto cache = fresh_cache();
    std::vector<int32_t> pending = golden_.greedy->prompt;
    int position = 0;
    int num_equal = 0;
    for (int32_t expected : golden_.greedy->tokens) {
      model_.forward(step(position, pending), *cache);
      position += static_cast<int>(pending.size());
      const int32_t last_row = static_cast<int32_t>(pending.size()) - 1;
      std::vector<float> logits(static_cast<size_t>(config().vocab_size));
      backend_.copy_to_host(logits.data(), model_.logits({&last_row, 1}), logits.size() * sizeof(float));
      num_equal += std::max_element(logits.begin(), logits.end()) - logits.begin() == expected;
      pending.assign(1, expected);
    }
    report_.greedy_equal = num_equal;
    report_.greedy_of = static_cast<int>(golden_.greedy->tokens.size());
  }

  void check_router() {
    if (!golden_.router) return;
    const GoldenRouter& golden = *golden_.router;
    const size_t num_selected = static_cast<size_t>(config().num_experts_per_tok);
    std::vector<int32_t> experts(golden.experts.size());
    std::vector<float> weights(golden.weights.size());
    model_.route(golden.layer_idx, golden.input.data(), golden.bias.data(), golden.num_rows, experts.data(), weights.data());
    bool equal = true;
    for (size_t begin = 0; begin < experts.size(); begin += num_selected) {
      for (size_t i = begin; i < begin + num_selected; ++i) {
        const auto golden_begin = golden.experts.begin() + static_cast<std::ptrdiff_t>(begin);
        const auto golden_end = golden_begin + static_cast<std::ptrdiff_t>(num_selected);
        const auto found = std::find(golden_begin, golden_end, experts[i]);
        if (found == golden_end) {
          equal = false;
          continue;
        }
        const double theirs = golden.weights[begin + static_cast<size_t>(found - golden_begin)];
        equal = equal && std::fabs(weights[i] - theirs) <= kRouterWeightTolerance * std::fabs(theirs);
      }
    }
    report_.router_equal = equal;
  }

  void judge_logits(const char* name, const LogitsReport& report, const Variation::Part& variation) {
    const auto at_most = [&](const char* what, double mine, double theirs) {
      const double limit = kVariationFactor * (1.0 - theirs);
      if (1.0 - mine > limit) report_.failures.push_back(fmt::format("{}: 1 - {} {:.6f}, at most {:.6f}", name, what, 1.0 - mine, limit));
    };
    at_most("median", report.median, variation.median);
    at_most("p10", report.p10, variation.p10);
    if (report.argmax < variation.argmax - kArgmaxSlack) {
      report_.failures.push_back(fmt::format("{}: argmax {:.4f}, at least {:.4f}", name, report.argmax, variation.argmax - kArgmaxSlack));
    }
  }

  void judge() {
    for (const LayerReport& layer : report_.layers) {
      if (layer.median < kLayerMedian) {
        report_.failures.push_back(fmt::format("layer {}: median {:.6f}, at least {}", layer.layer_idx, layer.median, kLayerMedian));
      }
      if (layer.topk_overlap && *layer.topk_overlap < kLayerOverlap) {
        report_.failures.push_back(
            fmt::format("layer {}: overlap {:.4f}, at least {}", layer.layer_idx, *layer.topk_overlap, kLayerOverlap));
      }
    }
    if (report_.router_equal && !*report_.router_equal) report_.failures.push_back("router: differs");
    report_.judged_by_variation = variation_.has_value();
    if (!variation_) return;
    judge_logits("prefill", report_.prefill, variation_->prefill);
    if (report_.decode) judge_logits("decode", *report_.decode, variation_->decode);
  }

  Backend& backend_;
  Checkpoint checkpoint_;
  Golden golden_;
  std::optional<Variation> variation_;
  int num_positions_;
  Model model_;
  std::vector<int32_t> pages_;
  StepInput step_;
  VerifyReport report_;
};

nlohmann::ordered_json optional_json(const std::optional<double>& value) {
  return value ? nlohmann::ordered_json(*value) : nullptr;
}

nlohmann::ordered_json logits_json(const LogitsReport& report) {
  return {{"median", report.median}, {"p10", report.p10}, {"min", report.min}, {"argmax", report.argmax}};
}

std::string logits_text(const char* name, const LogitsReport& report) {
  return fmt::format("{:<8} {:4} rows: cosine median {:.6f}, p10 {:.6f}, min {:.6f}; argmax equal {:.2f} %\n", name, report.num_rows,
                     report.median, report.p10, report.min, 100.0 * report.argmax);
}

}  // namespace

nlohmann::ordered_json VerifyReport::json() const {
  nlohmann::ordered_json json;
  json["layers"] = nlohmann::ordered_json::array();
  for (const LayerReport& layer : layers) {
    json["layers"].push_back({{"layer", layer.layer_idx},
                              {"median", layer.median},
                              {"p01", layer.p01},
                              {"min", layer.min},
                              {"min_position", layer.min_position},
                              {"topk_overlap", optional_json(layer.topk_overlap)},
                              {"topk_overlap_strict", optional_json(layer.topk_overlap_strict)}});
  }
  json["prefill"] = logits_json(prefill);
  json["decode"] = decode ? logits_json(*decode) : nullptr;
  json["mtp"] = mtp ? logits_json(*mtp) : nullptr;
  json["greedy"] = greedy_equal ? nlohmann::ordered_json{{"equal", *greedy_equal}, {"of", greedy_of}} : nullptr;
  json["router"] = router_equal ? nlohmann::ordered_json{{"equal", *router_equal}} : nullptr;
  json["judged_by_variation"] = judged_by_variation;
  json["failures"] = failures;
  json["pass"] = pass();
  return json;
}

std::string VerifyReport::text() const {
  std::string text;
  for (const LayerReport& layer : layers) {
    text += fmt::format("layer {:3} alone: cosine median {:.7f}, p01 {:.7f}, min {:.7f} at position {}", layer.layer_idx, layer.median,
                        layer.p01, layer.min, layer.min_position);
    if (layer.topk_overlap) {
      text += fmt::format("; selected entries in common {:.2f} %, ties not counted as equal {:.2f} %", 100.0 * *layer.topk_overlap,
                          100.0 * *layer.topk_overlap_strict);
    }
    text += '\n';
  }
  text += logits_text("prefill", prefill);
  if (decode) text += logits_text("decode", *decode);
  if (mtp) text += logits_text("mtp", *mtp);
  if (greedy_equal) text += fmt::format("greedy   {} of {} tokens equal\n", *greedy_equal, greedy_of);
  if (router_equal) text += fmt::format("router   {}\n", *router_equal ? "equal" : "differs");
  if (!judged_by_variation) text += "no variation.json beside the golden file: whole-model figures are reported, not judged\n";
  return text;
}

std::string VerifyReport::verdict() const {
  return pass() ? "verify: PASS" : fmt::format("verify: FAIL {}", fmt::join(failures, "; "));
}

VerifyReport verify(const VerifyOptions& options, Backend& backend) {
  return Verification(options, backend).run();
}

}  // namespace dsv4
