// dsv4 bench: how fast prompts and answers are computed, by batch size and context; as a whole, or steps alone against their floor.
#include <fmt/format.h>

#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/process_stats.h"
#include "cli/step_bench.h"
#include "runtime/device.h"

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
    engine_.backend().synchronize();
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

// `dsv4 bench decode` and `dsv4 bench prefill`.
struct StepBenchArguments {
  ModelArguments model;
  std::vector<int> batches = {1};
  std::vector<int> contexts = {4096};
  int num_steps = 40;
  int prompt_tokens = 8192;
  std::vector<int> chunks = {2048};
  std::string append_file;
  bool is_prefill = false;
  bool with_ops = false;
  bool json = false;
};

// The command as it was given, without what says where its results go.
std::string command_line(const CLI::App& command) {
  std::string line = fmt::format("dsv4 bench {}", command.get_name());
  for (const CLI::Option* option : command.get_options()) {
    const std::string name = option->get_name();
    if (option->count() == 0 || name == "--append" || name == "--json") continue;
    line += " " + name;
    if (option->get_expected_max() == 0) continue;  // a flag
    std::string values;
    for (const std::string& value : option->results()) values += (values.empty() ? "" : ",") + value;
    line += " " + values;
  }
  return line;
}

EngineOptions step_engine_options(const StepBenchArguments& arguments, const Environment& environment) {
  EngineOptions options = arguments.model.engine_options(environment);
  const int64_t context = largest(arguments.contexts);
  if (arguments.is_prefill) {
    options.max_context = static_cast<int>(context + arguments.prompt_tokens);
    options.step_tokens = largest(arguments.chunks);
  } else {
    options.max_sequences = largest(arguments.batches);
    options.max_context = static_cast<int>(context);
    options.step_tokens = std::max(options.max_sequences, default_step_tokens(options.device, options.max_sequences));
  }
  return options;
}

int run_step_bench(const StepBenchArguments& arguments, const std::string& command, const Environment& environment) {
  std::ofstream results;
  if (!arguments.append_file.empty()) {
    results.open(arguments.append_file, std::ios::app);
    require(results.is_open(), "{}: cannot be written", arguments.append_file);
  }
  Engine engine(step_engine_options(arguments, environment));
  StepBenchOptions options;
  options.machine = machine_name(arguments.model.device);
  options.command = command;
  options.model_name = arguments.model.name();
  options.full_config = arguments.model.full_config();
  options.with_ops = arguments.with_ops;
  options.num_steps = arguments.num_steps;
  StepBench bench(engine, options);
  const auto report = [&](const BenchResult& result) {
    if (arguments.json) {
      print_json(result.json());
    } else {
      print(result_text(result));
    }
    if (results.is_open()) {
      results << result.json().dump() << "\n" << std::flush;
      require(static_cast<bool>(results), "{}: cannot be written", arguments.append_file);
    }
  };
  for (int context : arguments.contexts) {
    if (arguments.is_prefill) {
      for (int chunk : arguments.chunks) report(bench.prefill(context, arguments.prompt_tokens, chunk));
    } else {
      for (int batch : arguments.batches) report(bench.decode(batch, context));
    }
  }
  return 0;
}

// An option that takes a list; the help ends with its default.
CLI::Option* add_list(CLI::App& command, const char* name, std::vector<int>& values, const char* help, CLI::Validator validator) {
  return command.add_option(name, values, fmt::format("{}, a list (default: {})", help, fmt::join(values, ",")))
      ->type_name("N,N,…")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->transform(std::move(validator));
}

// The steps' own subcommand below `bench`; what is given to one cannot be given to the other.
Command add_step_bench(CLI::App& bench, bool is_prefill, const Environment& environment) {
  CLI::App* command = is_prefill ? bench.add_subcommand("prefill", "Measure a prompt, step by step")
                                 : bench.add_subcommand("decode", "Measure decode steps against their floor, the bytes they must read");
  const auto arguments = std::make_shared<StepBenchArguments>();
  arguments->is_prefill = is_prefill;
  arguments->model.add_model(*command);
  arguments->model.add_dummy(*command);
  arguments->model.add_backend(*command);
  if (is_prefill) {
    arguments->contexts = {0};
    add_list(*command, "--context", arguments->contexts, "Tokens before the prompt", whole_number_from(0));
    command->add_option("--tokens", arguments->prompt_tokens, "Tokens of the prompt")
        ->type_name("N")
        ->capture_default_str()
        ->transform(whole_number_from(1));
    add_list(*command, "--chunk", arguments->chunks, "Tokens of one step", whole_number(1, 65536));
    command->footer("Example: dsv4 bench prefill --dummy flash --layers 32 --device cuda --tokens 8192 --chunk 2048,4096");
  } else {
    add_list(*command, "--batch", arguments->batches, "Sequences computed together", whole_number(1, 4096));
    add_list(*command, "--context", arguments->contexts, "Tokens in each cache at the last step measured", whole_number_from(2));
    command->add_option("--steps", arguments->num_steps, "Steps measured, after some to warm up")
        ->type_name("N")
        ->capture_default_str()
        ->transform(whole_number(1, 100000));
    command->footer("Example: dsv4 bench decode --dummy flash --layers 32 --device cuda --batch 1,64 --context 4096 --ops");
  }
  command->add_flag("--ops", arguments->with_ops, "Also time every launch by itself, and sum the times up by op");
  command->add_flag("--json", arguments->json, "Print one JSON object per measurement");
  command->add_option("--append", arguments->append_file, "Append the results to this file, as bench/results has them")
      ->type_name("FILE")
      ->check(not_empty());
  return {command, [arguments, command, environment] { return run_step_bench(*arguments, command_line(*command), environment); }};
}

}  // namespace

Command add_bench(CLI::App& app, const Environment& environment) {
  CLI::App* command = app.add_subcommand("bench", "Measure prefill and decode speed with random tokens");
  const auto options = std::make_shared<BenchOptions>();
  options->model.add_model(*command);
  options->model.add_backend(*command);
  options->model.add_dummy(*command);
  add_list(*command, "--batch", options->batches, "Sequences computed together", whole_number(1, 4096));
  add_list(*command, "--context", options->contexts, "Tokens in each sequence before the measurement", whole_number_from(0));
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
  command->footer(
      "Example: dsv4 bench --batch 1,2,4 --context 0,512 --prompt-tokens 256\n"
      "dsv4 bench decode --help and dsv4 bench prefill --help tell about single steps.");
  const std::vector<Command> steps = {add_step_bench(*command, false, environment), add_step_bench(*command, true, environment)};
  for (const Command& step : steps) {
    for (CLI::Option* option : command->get_options()) {
      if (option != command->get_help_ptr()) step.app->excludes(option);
    }
  }
  return {command, [options, environment, steps] {
            for (const Command& step : steps) {
              if (step.app->parsed()) return step.run();
            }
            return run_bench(*options, environment);
          }};
}

}  // namespace dsv4
