#include "cli/step_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <map>
#include <optional>
#include <random>
#include <utility>

#include "base/date.h"
#include "base/error.h"
#include "runtime/random_cache.h"

namespace dsv4 {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

constexpr int kWarmUpSteps = 4;  // before the step that is taken apart, and again after it
constexpr int kStepsBefore = 2 * kWarmUpSteps + 1;
constexpr int64_t kCheapTokens = 16384;  // caches of up to so many tokens are computed rather than filled
constexpr int kNumKinds = 3;
constexpr const char* kKindNames[kNumKinds] = {"swa", "csa", "hca"};

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double real(int64_t value) {
  return static_cast<double>(value);
}

// The value below which a share of the sorted values lies.
double quantile(const std::vector<double>& sorted, double share) {
  return sorted[static_cast<size_t>(share * real(static_cast<int64_t>(sorted.size()) - 1) + 0.5)];
}

size_t kind_idx(const ModelConfig& config, int layer) {
  return static_cast<size_t>(config.layer_kind(layer));
}

// Layers of each kind.
std::array<int, kNumKinds> count_kinds(const ModelConfig& config) {
  std::array<int, kNumKinds> counts{};
  for (int layer = 0; layer < config.num_hidden_layers; ++layer) ++counts[kind_idx(config, layer)];
  return counts;
}

// The part of a step that an op works on; ops of several kernels begin with the op's name.
CostPart part_of(std::string_view op) {
  constexpr std::pair<const char*, CostPart> kOps[] = {
      {"linear_", CostPart::kProducts},
      {"grouped_linear", CostPart::kGrouped},
      {"experts", CostPart::kExperts},
      {"shared_expert", CostPart::kExperts},
      {"moe", CostPart::kExperts},
      {"attention", CostPart::kAttention},
      {"index_scores", CostPart::kIndexScores},
      {"boundary", CostPart::kMhc},
      {"mhc_", CostPart::kMhc},
      {"head_norm", CostPart::kMhc},
      {"router", CostPart::kRouter},
  };
  for (const auto& [name, part] : kOps) {
    if (op.starts_with(name)) return part;
  }
  return CostPart::kOther;
}

Json rounded(double value, int digits) {
  return std::stod(fmt::format("{:.{}g}", value, digits));
}

}  // namespace

// Which launches of a run belong to which layer.
class StepBench::LayerMarks final : public LayerObserver {
 public:
  struct Mark {
    int layer_idx;
    size_t begin;  // launches
    size_t end;
  };

  explicit LayerMarks(const Backend& backend) : backend_(backend), first_launch_(backend.counters().kernel_launches) {}

  // The next layer begins here, not where the last one ended.
  void begin_step() { begin_ = num_launches(); }
  void on_selection(int, int, int, const Bf16*, int64_t, const int32_t*) override {}
  void on_layer(int layer_idx, int, const Bf16*) override {
    marks_.push_back({layer_idx, begin_, num_launches()});
    begin_ = num_launches();
  }
  const std::vector<Mark>& marks() const { return marks_; }

 private:
  size_t num_launches() const { return static_cast<size_t>(backend_.counters().kernel_launches - first_launch_); }

  const Backend& backend_;
  int64_t first_launch_;
  size_t begin_ = 0;
  std::vector<Mark> marks_;
};

// A run launch by launch.
struct StepBench::Profile {
  std::vector<ProfiledLaunch> launches;
  std::array<double, kNumKinds> kind_seconds{};  // of all launches in layers of a kind
  std::array<std::array<double, kNumCostParts>, kNumKinds> kind_part_seconds{};
  int num_steps = 0;
  std::array<int64_t, kNumKinds> kind_launches{};  // most launches of one layer of a kind and one step; the first layer, which has the
                                                   // embedding with it, counts only where no other is of its kind
  double seconds() const {
    double sum = 0.0;
    for (const ProfiledLaunch& launch : launches) sum += launch.seconds;
    return sum;
  }
};

Json BenchResult::json() const {
  return {{"bench", bench}, {"machine", machine}, {"date", date}, {"command", command},
          {"setup", setup}, {"figures", figures}, {"ops", ops},   {"parts", parts}};
}

StepBench::StepBench(Engine& engine, StepBenchOptions options)
    : engine_(engine),
      options_(std::move(options)),
      config_(engine.config()),
      weight_bytes_(model_weight_bytes(config_)),
      copy_rate_(engine.backend().measure_copy_rate()) {}

BenchResult StepBench::make_result(const char* bench) const {
  BenchResult result;
  result.bench = bench;
  result.machine = options_.machine;
  result.date = today();
  result.command = options_.command;
  result.setup = {{"model", options_.model_name},
                  {"layers", config_.num_hidden_layers},
                  {"full_layers", options_.full_config.num_hidden_layers},
                  {"device", engine_.backend().name()}};
  result.ops = Json::array();
  result.parts = Json::array();
  return result;
}

void StepBench::feed_random(int sequence_id, int count) {
  std::mt19937_64 random(options_.seed + 1000 * num_fed_++);
  std::uniform_int_distribution<int32_t> any_token(0, config_.vocab_size - 1);
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (int32_t& token : tokens) token = any_token(random);
  engine_.feed(sequence_id, tokens);
}

void StepBench::run_all() {
  do {
    if (marks_ != nullptr) marks_->begin_step();
  } while (engine_.step());
}

std::vector<int> StepBench::open_filled(int batch, int context, bool& computed) {
  computed = int64_t{batch} * context <= kCheapTokens;
  if (!computed && !std::exchange(cache_is_random_, true)) {
    fill_random_cache(config_, engine_.cache(), options_.seed, engine_.backend());
  }
  std::vector<int> ids;
  for (int i = 0; i < batch; ++i) {
    ids.push_back(engine_.open_sequence());
    if (!computed) {
      engine_.skip_to(ids.back(), context);
    } else if (context > 0) {
      feed_random(ids.back(), context);
    }
  }
  run_all();
  return ids;
}

StepBench::Profile StepBench::profile(const std::function<void()>& run) {
  LayerMarks marks(engine_.backend());
  engine_.model().set_observer(&marks);
  engine_.use_recordings(false);
  marks_ = &marks;
  Profile profile;
  profile.launches = engine_.backend().profile(run);
  marks_ = nullptr;
  engine_.use_recordings(true);
  engine_.model().set_observer(nullptr);

  std::array<int64_t, kNumKinds> in_first_layer{};
  for (const LayerMarks::Mark& mark : marks.marks()) {
    const size_t kind = kind_idx(config_, mark.layer_idx);
    int64_t& most = mark.layer_idx == 0 ? in_first_layer[kind] : profile.kind_launches[kind];
    most = std::max(most, static_cast<int64_t>(mark.end - mark.begin));
    for (size_t i = mark.begin; i < std::min(mark.end, profile.launches.size()); ++i) {
      const ProfiledLaunch& launch = profile.launches[i];
      profile.kind_seconds[kind] += launch.seconds;
      profile.kind_part_seconds[kind][static_cast<size_t>(part_of(launch.op))] += launch.seconds;
    }
    if (mark.layer_idx == 0) ++profile.num_steps;
  }
  for (size_t kind = 0; kind < kNumKinds; ++kind) {
    if (profile.kind_launches[kind] == 0) profile.kind_launches[kind] = in_first_layer[kind];
  }
  return profile;
}

void StepBench::report_profile(const Profile& profile, const StepCosts& costs, BenchResult& result) const {
  std::map<std::string, std::pair<int64_t, double>> ops;
  std::array<double, kNumCostParts> part_seconds{};
  for (const ProfiledLaunch& launch : profile.launches) {
    auto& [launches, seconds] = ops[launch.op];
    ++launches;
    seconds += launch.seconds;
    part_seconds[static_cast<size_t>(part_of(launch.op))] += launch.seconds;
  }
  std::vector<std::pair<std::string, std::pair<int64_t, double>>> by_time(ops.begin(), ops.end());
  std::sort(by_time.begin(), by_time.end(), [](const auto& a, const auto& b) { return a.second.second > b.second.second; });
  for (const auto& [op, totals] : by_time) {
    result.ops.push_back({{"op", op},
                          {"launches", totals.first},
                          {"us", rounded(1e6 * totals.second, 5)},
                          {"share", rounded(totals.second / profile.seconds(), 4)}});
  }
  const std::array<int, kNumKinds> layers = count_kinds(config_);
  for (size_t i = 0; i < kNumCostParts; ++i) {
    if (part_seconds[i] == 0.0) continue;
    const StepCost& cost = costs.parts[i];
    Json per_layer = Json::object();
    for (size_t kind = 0; kind < kNumKinds; ++kind) {
      if (layers[kind] == 0) continue;
      per_layer[kKindNames[kind]] = rounded(1e6 * profile.kind_part_seconds[kind][i] / layers[kind] / std::max(profile.num_steps, 1), 5);
    }
    result.parts.push_back({{"part", part_name(static_cast<CostPart>(i))},
                            {"us", rounded(1e6 * part_seconds[i], 5)},
                            {"bytes", rounded(cost.bytes(), 6)},
                            {"flop", rounded(cost.flop, 6)},
                            {"us_per_layer", per_layer}});
  }
}

double StepBench::scaled_seconds(const Profile& profile, double seconds) const {
  if (profile.launches.empty()) return 0.0;
  const std::array<int, kNumKinds> here = count_kinds(config_);
  const std::array<int, kNumKinds> in_full = count_kinds(options_.full_config);
  const double all = profile.seconds();
  double rest = all;
  double scaled = 0.0;
  for (size_t kind = 0; kind < kNumKinds; ++kind) {
    if (in_full[kind] > 0 && here[kind] == 0) return 0.0;
    if (here[kind] == 0) continue;
    rest -= profile.kind_seconds[kind];
    scaled += profile.kind_seconds[kind] / here[kind] * in_full[kind];
  }
  return seconds * (scaled + rest) / all;
}

BenchResult StepBench::decode(int batch, int context) {
  const int first = context - kStepsBefore - options_.num_steps;
  require(first >= 1, "context {}: {} steps and {} before them need at least {} tokens", context, options_.num_steps, kStepsBefore,
          kStepsBefore + options_.num_steps + 1);
  require(context <= engine_.max_context(), "context {}: the engine holds {}", context, engine_.max_context());
  bool computed = false;
  const std::vector<int> ids = open_filled(batch, first - 1, computed);
  for (int id : ids) feed_random(id, 1);
  run_all();

  // Draws from random logits spread over the vocabulary, as the choice of experts by token id needs.
  std::vector<Sampler> samplers;
  for (int i = 0; i < batch; ++i) {
    SamplingParams params;
    params.seed = options_.seed + static_cast<uint64_t>(i);
    samplers.emplace_back(params, config_.vocab_size);
  }
  std::vector<Sampler*> sampler_of;
  for (Sampler& sampler : samplers) sampler_of.push_back(&sampler);
  // Each waits for what the one before it has drawn.
  const auto step = [&] {
    const std::vector<SampledToken> sampled = engine_.sample(ids, sampler_of);
    for (size_t i = 0; i < ids.size(); ++i) engine_.feed(ids[i], {&sampled[i].token_id, 1});
    run_all();
  };
  Backend& backend = engine_.backend();
  for (int i = 0; i < kWarmUpSteps; ++i) step();
  const Profile profiled = profile(step);
  for (int i = 0; i < kWarmUpSteps; ++i) step();
  const StepCounters before = backend.counters();
  std::vector<double> seconds;
  for (int i = 0; i < options_.num_steps; ++i) {
    const Clock::time_point start = Clock::now();
    step();
    seconds.push_back(seconds_since(start));
  }
  const StepCounters after = backend.counters();
  std::sort(seconds.begin(), seconds.end());

  const StepCosts costs = decode_costs(config_, weight_bytes_, batch, context);
  const StepCost total = costs.total();
  const double median = quantile(seconds, 0.5);
  const double floor = total.bytes() / copy_rate_;
  const auto per_step = [&](int64_t StepCounters::*count) { return real(after.*count - before.*count) / options_.num_steps; };
  BenchResult result = make_result("decode");
  result.setup["batch"] = batch;
  result.setup["context"] = context;
  result.setup["cache"] = computed ? "computed" : "random";
  result.setup["steps"] = options_.num_steps;
  result.figures = {{"step_ms", rounded(1e3 * median, 5)},
                    {"step_ms_p10", rounded(1e3 * quantile(seconds, 0.1), 5)},
                    {"step_ms_p90", rounded(1e3 * quantile(seconds, 0.9), 5)},
                    {"tokens_per_second", rounded(batch / median, 5)},
                    {"weight_bytes", rounded(total.weight_bytes, 12)},
                    {"kv_bytes", rounded(total.kv_bytes, 12)},
                    {"flop", rounded(total.flop, 8)},
                    {"copy_gb_per_second", rounded(1e-9 * copy_rate_, 5)},
                    {"floor_ms", rounded(1e3 * floor, 5)},
                    {"times_floor", rounded(median / floor, 4)},
                    {"graph_launches", per_step(&StepCounters::graph_launches)},
                    {"kernel_launches", per_step(&StepCounters::kernel_launches)},
                    {"synchronizations", per_step(&StepCounters::synchronizations)},
                    {"allocations", per_step(&StepCounters::allocations)},
                    {"uploaded_bytes", per_step(&StepCounters::uploaded_bytes)}};
  if (!profiled.launches.empty()) {
    result.figures["kernels"] = engine_.num_decode_kernels(batch);
    for (size_t kind = 0; kind < kNumKinds; ++kind) {
      result.figures[fmt::format("kernels_{}", kKindNames[kind])] = profiled.kind_launches[kind];
    }
  }
  if (options_.with_ops) report_profile(profiled, costs, result);
  for (int id : ids) engine_.close_sequence(id);
  return result;
}

BenchResult StepBench::prefill(int context, int num_tokens, int chunk) {
  require(chunk >= 1 && chunk <= engine_.options().step_tokens, "chunk {}: expected 1 to {}", chunk, engine_.options().step_tokens);
  Backend& backend = engine_.backend();
  bool computed = false;
  const auto run = [&](bool timed_by_launch, double& seconds) {
    const int id = open_filled(1, context, computed).front();
    const auto prompt = [&] {
      for (int done = 0; done < num_tokens; done += chunk) {
        feed_random(id, std::min(chunk, num_tokens - done));
        run_all();
      }
    };
    Profile profiled;
    backend.synchronize();
    const Clock::time_point start = Clock::now();
    if (timed_by_launch) {
      profiled = profile(prompt);
    } else {
      prompt();
      backend.synchronize();
    }
    seconds = seconds_since(start);
    engine_.close_sequence(id);
    return profiled;
  };
  double warm_up_seconds = 0.0;
  double seconds = 0.0;
  double profiled_seconds = 0.0;
  run(false, warm_up_seconds);
  run(false, seconds);
  const Profile profiled = run(true, profiled_seconds);

  StepCosts costs{};
  for (int done = 0; done < num_tokens; done += chunk) {
    costs += prefill_costs(config_, weight_bytes_, context + done, std::min(chunk, num_tokens - done));
  }
  const StepCost total = costs.total();
  const double full_seconds = scaled_seconds(profiled, seconds);
  BenchResult result = make_result("prefill");
  result.setup["context"] = context;
  result.setup["tokens"] = num_tokens;
  result.setup["chunk"] = chunk;
  result.setup["cache"] = computed ? "computed" : "random";
  result.figures = {{"ms", rounded(1e3 * seconds, 5)},
                    {"tokens_per_second", rounded(num_tokens / seconds, 5)},
                    {"tflops", rounded(1e-12 * total.flop / seconds, 4)},
                    {"flop", rounded(total.flop, 8)},
                    {"weight_bytes", rounded(total.weight_bytes, 12)},
                    {"copy_gb_per_second", rounded(1e-9 * copy_rate_, 5)},
                    {"full_ms", nullptr},
                    {"full_tokens_per_second", nullptr}};
  if (full_seconds > 0.0) {
    result.figures["full_ms"] = rounded(1e3 * full_seconds, 5);
    result.figures["full_tokens_per_second"] = rounded(num_tokens / full_seconds, 5);
    result.figures["kernels"] = profiled.launches.size();
  }
  if (options_.with_ops) report_profile(profiled, costs, result);
  return result;
}

namespace {

std::string ops_text(const BenchResult& result) {
  if (result.ops.empty()) return "";
  const double copy_rate = 1e9 * result.figures.at("copy_gb_per_second").get<double>();
  std::string text = "launch by launch, timed with events: launches do not overlap, and each has some microseconds of timing in it\n";
  text += fmt::format("{:<24} {:>9} {:>11} {:>7}\n", "op", "launches", "µs", "share");
  for (const Json& op : result.ops) {
    text += fmt::format("{:<24} {:>9} {:>10.1f} {:>6.1f}%\n", op.at("op").get<std::string>(), op.at("launches").get<int64_t>(),
                        op.at("us").get<double>(), 100.0 * op.at("share").get<double>());
  }
  text += fmt::format("{:<24} {:>9} {:>10} {:>9} {:>9} {:>10}\n", "part", "MB", "µs", "GB/s", "of copy", "TFLOPS");
  for (const Json& part : result.parts) {
    const std::string name = part.at("part");
    const double seconds = 1e-6 * part.at("us").get<double>();
    const double bytes = part.at("bytes");
    text += fmt::format("{:<24} {:>9.2f} {:>9.1f}", name, 1e-6 * bytes, 1e6 * seconds);
    // What the small ops move is not known.
    if (name != part_name(CostPart::kOther)) {
      text += fmt::format(" {:>9.1f} {:>8.1f}% {:>10.2f}", 1e-9 * bytes / seconds, 100.0 * bytes / seconds / copy_rate,
                          1e-12 * part.at("flop").get<double>() / seconds);
    }
    text += "\n";
  }
  return text;
}

std::string decode_text(const BenchResult& result) {
  const Json& figures = result.figures;
  const auto number = [&](const char* key) { return figures.at(key).get<double>(); };
  std::string text = fmt::format("decode, batch {}, context {} ({}), {} layers: {:.3f} ms a step ({:.3f} to {:.3f}), {:.1f} tokens/s\n",
                                 result.setup.at("batch").get<int>(), result.setup.at("context").get<int>(),
                                 result.setup.at("cache").get<std::string>(), result.setup.at("layers").get<int>(), number("step_ms"),
                                 number("step_ms_p10"), number("step_ms_p90"), number("tokens_per_second"));
  text += fmt::format("  floor {:.3f} ms: {:.2f} MB of weights and {:.2f} MB of caches at {:.1f} GB/s; {:.2f} times the floor\n",
                      number("floor_ms"), 1e-6 * number("weight_bytes"), 1e-6 * number("kv_bytes"), number("copy_gb_per_second"),
                      number("times_floor"));
  text += fmt::format("  a step: {:g} graph and {:g} kernel launches, {:g} waits of the host, {:g} allocations, {:g} bytes uploaded\n",
                      number("graph_launches"), number("kernel_launches"), number("synchronizations"), number("allocations"),
                      number("uploaded_bytes"));
  if (figures.contains("kernels")) {
    text += fmt::format("  kernels of a step: {:g}; of a layer: SWA {:g}, CSA {:g}, HCA {:g}\n", number("kernels"), number("kernels_swa"),
                        number("kernels_csa"), number("kernels_hca"));
  }
  return text;
}

std::string prefill_text(const BenchResult& result) {
  const Json& figures = result.figures;
  std::string text = fmt::format("prefill, {} tokens after {} in chunks of {}, {} layers: {:.2f} ms, {:.1f} tokens/s, {:.2f} TFLOPS\n",
                                 result.setup.at("tokens").get<int>(), result.setup.at("context").get<int>(),
                                 result.setup.at("chunk").get<int>(), result.setup.at("layers").get<int>(), figures.at("ms").get<double>(),
                                 figures.at("tokens_per_second").get<double>(), figures.at("tflops").get<double>());
  if (!figures.at("full_ms").is_null()) {
    text += fmt::format("  scaled to {} layers: {:.2f} ms, {:.1f} tokens/s\n", result.setup.at("full_layers").get<int>(),
                        figures.at("full_ms").get<double>(), figures.at("full_tokens_per_second").get<double>());
  }
  return text;
}

}  // namespace

std::string result_text(const BenchResult& result) {
  return (result.bench == "decode" ? decode_text(result) : prefill_text(result)) + ops_text(result);
}

}  // namespace dsv4
