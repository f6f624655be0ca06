// Options that several commands share, and the checks of their values.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/env.h"
#include "model/config.h"
#include "runtime/generation.h"

namespace dsv4 {

// Makes a usage error of a command line with fewer than `least` or more than one of `options`; `what` names what is wanted.
void require_one_of(CLI::App& command, std::vector<CLI::Option*> options, size_t least, const std::string& what);

// Accepts decimal whole numbers from `low` to `high` and nothing else: no octal, no wrap-around, no trailing characters.
CLI::Validator whole_number(int64_t low, int64_t high);
// The same for all of uint64.
CLI::Validator unsigned_number();

// Refuses an empty argument.
CLI::Validator not_empty();

// Numbers from `low` to INT_MAX.
inline CLI::Validator whole_number_from(int64_t low) {
  return whole_number(low, std::numeric_limits<int>::max());
}

// The directory models/tiny that comes with the project: beside the build tree of this executable, else in the source tree it was built
// from. Nothing where neither holds a config.json.
std::optional<std::filesystem::path> bundled_model();

// The tokenizer.json of a model directory.
Tokenizer load_tokenizer(const std::filesystem::path& model_dir);

// Throws Error where the tokenizer knows ids that the model has not.
void require_vocabulary(const Tokenizer& tokenizer, const ModelConfig& config);

// --model, --device, --threads, --context, --dummy and --layers.
struct ModelArguments {
  std::string model;           // empty: the bundled model
  std::string device = "cpu";  // as EngineOptions names it
  int num_threads = 0;         // 0: DSV4_THREADS, else every core
  std::string dummy;           // "flash", "pro" or a config.json: random weights instead of a checkpoint's; empty: none
  int layers = 0;              // of the dummy; 0: all
  int context = 0;             // 0: what the model has

  void add_model(CLI::App& command);
  void add_backend(CLI::App& command);  // --device and --threads
  void add_context(CLI::App& command);
  void add_dummy(CLI::App& command);  // --dummy and --layers, after --model
  void add_all(CLI::App& command);

  // Throws Error where --model is not given and there is no bundled model, or where it is no directory.
  std::filesystem::path model_dir() const;
  // The configuration of --dummy; nothing where it is not given. Throws Error.
  std::optional<ModelConfig> dummy_config() const;
  // The configuration of the whole model, --layers aside. Throws Error.
  ModelConfig full_config() const;
  // What results call the model: "flash", or the name of its directory or file.
  std::string name() const;
  // Whether model_dir() is the bundled model.
  bool is_bundled() const;
  // Threads of the CPU ops, as EngineOptions counts them.
  int threads(const Environment& environment) const;
  // The backend of the device, with that many threads.
  std::unique_ptr<Backend> make_backend(const Environment& environment) const;
  // For an engine with one open sequence.
  EngineOptions engine_options(const Environment& environment) const;
};

// The sampling options; what is not given comes from the model's generation_config.json.
struct SamplingArguments {
  std::optional<float> temperature;
  std::optional<float> top_p;
  std::optional<uint64_t> seed;
  std::vector<std::string> logit_bias;  // "ID=VALUE"
  SamplingParams params;                // the other settings

  void add(CLI::App& command);

  // The settings, checked against the vocabulary; the seed is drawn at random where it is not given. Throws Error.
  SamplingParams resolve(const std::filesystem::path& model_dir, int vocab_size) const;
};

// Sampling, length and ends of an answer.
struct AnswerArguments {
  SamplingArguments sampling;
  std::vector<std::string> stop_strings;
  std::vector<int32_t> stop_token_ids;
  int max_tokens = 0;  // 0: as many as the context holds
  bool ignore_eos = false;

  void add(CLI::App& command);

  // The settings, checked against the model. Throws Error.
  GenerationOptions resolve(const std::filesystem::path& model_dir, int vocab_size) const;
};

// How an answer begins: at once, or with reasoning of some effort.
enum class ThinkMode : uint8_t { kNone, kHigh, kMax };

// "none", "high" or "max"; nothing for any other name.
std::optional<ThinkMode> parse_think_mode(std::string_view name);
const char* think_mode_name(ThinkMode mode);
void add_think_option(CLI::App& command, ThinkMode& mode);

// Reads "ID=VALUE"; VALUE is a number, -inf bans the token. Throws Error.
std::pair<int32_t, float> parse_logit_bias(const std::string& text);

// Reads token ids separated by commas and white space. Throws Error naming the first that is no id below `vocab_size`.
std::vector<int32_t> parse_token_ids(std::string_view text, int vocab_size);

}  // namespace dsv4
