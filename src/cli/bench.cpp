// dsv4 bench: how fast prompts and answers are computed, by batch size and context.
#include <fmt/format.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <random>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/process_stats.h"

namespace dsv4 {
namespace {

using Clock = std::chrono::steady_clock;

struct BenchOptions {
  ModelArguments model;
  std::vector<int> batches = {1};
  std::vector<int> contexts = {0};
  int prompt_tokens = 128;
  int decode_tokens = 32;
  uint64_t seed = 1;
  bool json = false;
};

struct BenchRow {
  int batch = 0;
  int context = 0;
  double prefill_rate = 0.0;  // prompt tokens per second, all sequences together
  double decode_rate = 0.0;   // tokens of answers per second, all sequences together
  double step_seconds = 0.0;  // of one decode step
};

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

int largest(const std::vector<int>& values) {
  return *std::max_element(values.begin(), values.end());
}

class Bench {
 public:
  explicit Bench(const BenchOptions& options, const EngineOptions& engine_options)
      : options_(options), engine_(engine_options), random_(options.seed) {}

  Engine& engine() { return engine_; }

  // Seconds from the start of the process until a first token was there: one sequence, the prompt's length.
  double first_token() {
    const std::vector<int> ids = open(1);
    feed_random(ids, options_.prompt_tokens);
    run_all();
    std::vector<Sampler> samplers = make_samplers(1);
    engine_.sample(ids.front(), samplers.front());
    const double seconds = seconds_since_process_start();
    close(ids);
    return seconds;
  }

  BenchRow measure(int batch, int context) {
    const std::vector<int> ids = open(batch);
    feed_random(ids, context);
    run_all();

    const Clock::time_point prefill_start = Clock::now();
    feed_random(ids, options_.prompt_tokens);
    run_all();
    const double prefill_seconds = seconds_since(prefill_start);

    std::vector<Sampler> samplers = make_samplers(batch);
    std::vector<Sampler*> sampler_of;
    for (Sampler& sampler : samplers) sampler_of.push_back(&sampler);
    const Clock::time_point decode_start = Clock::now();
    for (int token = 0; token < options_.decode_tokens; ++token) {
      const std::vector<SampledToken> sampled = engine_.sample(ids, sampler_of);
      for (size_t i = 0; i < ids.size(); ++i) engine_.feed(ids[i], {&sampled[i].token_id, 1});
      run_all();
    }
    const double decode_seconds = seconds_since(decode_start);
    close(ids);
    return {batch, context, batch * options_.prompt_tokens / prefill_seconds, batch * options_.decode_tokens / decode_seconds,
            decode_seconds / options_.decode_tokens};
  }

 private:
  std::vector<int> open(int count) {
    std::vector<int> ids;
    for (int i = 0; i < count; ++i) ids.push_back(engine_.open_sequence());
    return ids;
  }

  void close(const std::vector<int>& ids) {
    for (int id : ids) engine_.close_sequence(id);
  }

  void feed_random(const std::vector<int>& ids, int count) {
    std::uniform_int_distribution<int32_t> any_token(0, engine_.config().vocab_size - 1);
    std::vector<int32_t> tokens(static_cast<size_t>(count));
    for (int id : ids) {
      for (int32_t& token : tokens) token = any_token(random_);
      engine_.feed(id, tokens);
    }
  }

  void run_all() {
    while (engine_.step()) {
    }
  }

  std::vector<Sampler> make_samplers(int count) const {
    SamplingParams greedy;
    greedy.temperature = 0.0f;
    return std::vector<Sampler>(static_cast<size_t>(count), Sampler(greedy, engine_.config().vocab_size));
  }

  const BenchOptions& options_;
  Engine engine_;
  std::mt19937_64 random_;
};

EngineOptions engine_options(const BenchOptions& options, const Environment& environment) {
  EngineOptions engine_options = options.model.engine_options(environment);
  engine_options.max_sequences = largest(options.batches);
  const int64_t needed = int64_t{largest(options.contexts)} + options.prompt_tokens + options.decode_tokens;
  const ModelConfig config = engine_options.dummy ? *engine_options.dummy : load_config(engine_options.model_dir / "config.json");
  require(needed <= config.max_position_embeddings, "bench: context, prompt and decode tokens are {} together, this model has {}", needed,
          config.max_position_embeddings);
  engine_options.max_context = static_cast<int>(needed);
  return engine_options;
}

void print_report(const BenchOptions& options, const std::vector<BenchRow>& rows, double first_token_seconds) {
  nlohmann::ordered_json report;
  report["model"] = options.model.dummy.empty() ? options.model.model_dir().string() : "dummy " + options.model.dummy;
  if (options.model.layers > 0) report["layers"] = options.model.layers;
  report["prompt_tokens"] = options.prompt_tokens;
  report["decode_tokens"] = options.decode_tokens;
  report["first_token_seconds"] = first_token_seconds;
  report["rows"] = nlohmann::ordered_json::array();
  for (const BenchRow& row : rows) {
    report["rows"].push_back({{"batch", row.batch},
                              {"context", row.context},
                              {"prefill_tokens_per_second", row.prefill_rate},
                              {"decode_tokens_per_second", row.decode_rate},
                              {"decode_step_seconds", row.step_seconds}});
  }
  report["peak_resident_bytes"] = peak_resident_bytes();
  print_json(report);
}

int run_bench(const BenchOptions& options, const Environment& environment) {
  Bench bench(options, engine_options(options, environment));
  const double first_token_seconds = bench.first_token();
  std::vector<BenchRow> rows;
  if (!options.json)
    print(fmt::format("{:>6} {:>9} {:>15} {:>15} {:>15}\n", "batch", "context", "prefill tok/s", "decode tok/s", "decode ms/step"));
  for (int batch : options.batches) {
    for (int context : options.contexts) {
      const BenchRow row = bench.measure(batch, context);
      rows.push_back(row);
      if (options.json) continue;
      print(fmt::format("{:>6} {:>9} {:>15.1f} {:>15.1f} {:>15.3f}\n", batch, context, row.prefill_rate, row.decode_rate,
                        1e3 * row.step_seconds));
    }
  }
  if (options.json) {
    print_report(options, rows, first_token_seconds);
    return 0;
  }
  print(fmt::format(
      "{} prompt and {} decode tokens per sequence; first token {:.2f} s after process start; peak resident memory {:.1f} MiB\n",
      options.prompt_tokens, options.decode_tokens, first_token_seconds, static_cast<double>(peak_resident_bytes()) / (1024.0 * 1024.0)));
  return 0;
}

}  // namespace

Command add_bench(CLI::App& app, const Environment& environment) {
  CLI::App* command = app.add_subcommand("bench", "Measure prefill and decode speed with random tokens");
  const auto options = std::make_shared<BenchOptions>();
  options->model.add_model(*command);
  options->model.add_backend(*command);
  options->model.add_dummy(*command);
  command->add_option("--batch", options->batches, "Sequences computed together, a list (default: 1)")
      ->type_name("N,N,…")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->transform(whole_number(1, 4096));
  command->add_option("--context", options->contexts, "Tokens in each sequence before the measurement, a list (default: 0)")
      ->type_name("N,N,…")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->transform(whole_number_from(0));
  command->add_option("--prompt-tokens", options->prompt_tokens, "Tokens of each prompt measured")
      ->type_name("N")
      ->capture_default_str()
      ->transform(whole_number_from(1));
  command->add_option("--decode-tokens", options->decode_tokens, "Tokens of each answer measured")
      ->type_name("N")
      ->capture_default_str()
      ->transform(whole_number_from(1));
  command->add_option("--seed", options->seed, "Seed of the random tokens")
      ->type_name("N")
      ->capture_default_str()
      ->transform(unsigned_number());
  command->add_flag("--json", options->json, "Print one JSON object");
  command->footer("Example: dsv4 bench --batch 1,2,4 --context 0,512 --prompt-tokens 256");
  return {command, [options, environment] { return run_bench(*options, environment); }};
}

}  // namespace dsv4
