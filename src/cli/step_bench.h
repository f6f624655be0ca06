// Measures single steps of an engine against the floor of spec section 8: what `dsv4 bench decode` and `dsv4 bench prefill` do.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model/cost.h"
#include "runtime/engine.h"

namespace dsv4 {

// One line of a results file (bench/results/*.jsonl): where and when something was measured, with what, and the figures. A figure is null
// where it could not be measured.
struct BenchResult {
  std::string bench;  // "decode" or "prefill"
  std::string machine;
  std::string date;     // YYYY-MM-DD
  std::string command;  // as it was given
  nlohmann::ordered_json setup;
  nlohmann::ordered_json figures;
  nlohmann::ordered_json ops;  // [{"op", "launches", "us", "share"}], all launches of a profiled step; empty without them
  // [{"part", "us", "bytes", "flop", "us_per_layer": {"swa", "csa", "hca"}}], what those ops have to do (model/cost.h); the last is the
  // mean of the layers of a kind, per step.
  nlohmann::ordered_json parts;

  nlohmann::ordered_json json() const;
};

struct StepBenchOptions {
  std::string machine;
  std::string command;
  std::string model_name;
  ModelConfig full_config;  // of the model that a shortened one stands for
  bool with_ops = false;
  uint64_t seed = 1;
  int num_steps = 40;  // decode steps measured
};

// Measures on one engine. Sequences are opened for each measurement and closed after it.
class StepBench {
 public:
  // Measures the copy rate first. `engine` must outlive this.
  StepBench(Engine& engine, StepBenchOptions options);

  // Decode steps of `batch` sequences; the last one measured has `context` tokens in each cache, its own included. Throws Error where the
  // context is shorter than the steps or longer than the engine's.
  BenchResult decode(int batch, int context);
  // A prompt of `num_tokens` tokens after `context` others, in steps of `chunk`. Throws Error where they do not fit the engine.
  BenchResult prefill(int context, int num_tokens, int chunk);

 private:
  struct Profile;
  class LayerMarks;

  BenchResult make_result(const char* bench) const;
  // Sequences whose caches hold `context` tokens: computed where that is cheap, else random contents.
  std::vector<int> open_filled(int batch, int context, bool& computed);
  void feed_random(int sequence_id, int count);
  void run_all();
  Profile profile(const std::function<void()>& run);
  void report_profile(const Profile& profile, const StepCosts& costs, BenchResult& result) const;
  // Seconds that the layers of the full model would take, when this one's took `seconds`; 0 where no profile tells the kinds apart.
  double scaled_seconds(const Profile& profile, double seconds) const;

  Engine& engine_;
  StepBenchOptions options_;
  const ModelConfig& config_;
  ModelWeightBytes weight_bytes_;
  double copy_rate_;  // bytes a second
  bool cache_is_random_ = false;
  uint64_t num_fed_ = 0;
  LayerMarks* marks_ = nullptr;  // of the profiled run that goes on
};

// The result for people: its figures in a few lines, and the ops as a table.
std::string result_text(const BenchResult& result);

}  // namespace dsv4
