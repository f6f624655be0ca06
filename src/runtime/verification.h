// Compares the engine with a golden file (design section 3): every layer alone, and the whole model.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "model/weights.h"
#include "ops/backend.h"

namespace dsv4 {

struct VerifyOptions {
  std::filesystem::path model_dir;
  std::filesystem::path golden_file;  // variation.json is looked for beside it
  LoadProgress progress = {};         // of the weights
};

// One layer fed with the golden streams of the layer before it: cosine of its output streams per position.
struct LayerReport {
  int layer_idx = 0;
  double median = 0.0;
  double p01 = 0.0;
  double min = 0.0;
  int min_position = 0;
  // CSA layers: mean share of the golden selection found, where entries of equal score may stand for each other (spec 2.7: ties are
  // unspecified) …
  std::optional<double> topk_overlap;
  std::optional<double> topk_overlap_strict;  // … and where they may not
};

// Logits against golden logits: cosine per position, and the share of positions with the same argmax.
struct LogitsReport {
  int num_rows = 0;
  double median = 0.0;
  double p10 = 0.0;
  double min = 0.0;
  double argmax = 0.0;
};

struct VerifyReport {
  std::vector<LayerReport> layers;
  LogitsReport prefill;
  std::optional<LogitsReport> decode;
  std::optional<LogitsReport> mtp;
  std::optional<int> greedy_equal;  // greedy tokens that are drawn after the golden tokens before them, of greedy_of
  int greedy_of = 0;
  std::optional<bool> router_equal;
  bool judged_by_variation = false;   // variation.json was there
  std::vector<std::string> failures;  // one line per limit missed

  bool pass() const { return failures.empty(); }
  // {"layers": [...], "prefill": {...}, "decode": {...}, "mtp": {...}, "greedy": {...}, "router": {...}, "pass"}; parts the golden lacks
  // are null.
  nlohmann::ordered_json json() const;
  // Several lines for people, without the verdict.
  std::string text() const;
  // "verify: PASS" or "verify: FAIL <what and by how much>".
  std::string verdict() const;
};

// Runs the comparison on `backend`. Limits: each layer alone median ≥ 0.9999 and overlap ≥ 0.97; router exact; whole model 1 − median and 1
// − p10 at most twice, and argmax at most 0.05 below, those of variation.json (without one: reported, not judged). Throws Error for files
// that cannot be used.
VerifyReport verify(const VerifyOptions& options, Backend& backend);

}  // namespace dsv4
