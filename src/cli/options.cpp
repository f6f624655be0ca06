#include "cli/options.h"

#include <charconv>
#include <cmath>
#include <random>

#include "base/error.h"
#include "cli/input.h"
#include "cli/load_progress.h"
#include "runtime/device.h"

namespace dsv4 {
namespace {

namespace fs = std::filesystem;

// Makes a validator that replaces the argument by its canonical digits, since CLI11 would read a leading zero as octal.
template <typename T>
CLI::Validator number_validator(T low, T high) {
  const auto check = [low, high](std::string& text) -> std::string {
    T value = 0;
    const char* const end = text.data() + text.size();
    const auto [stop, code] = std::from_chars(text.data(), end, value);
    if (code != std::errc() || stop != end || text.empty() || value < low || value > high) {
      return fmt::format("\"{}\", expected a whole number from {} to {}", text, low, high);
    }
    text = std::to_string(value);
    return {};
  };
  return CLI::Validator(check, "");
}

bool holds_model(const fs::path& directory) {
  std::error_code ignored;
  return fs::is_regular_file(directory / "config.json", ignored);
}

// The models/ seen from build/<preset>/bin/dsv4; empty where the system does not tell where the executable is.
fs::path models_beside_executable() {
  std::error_code error;
  const fs::path executable = fs::read_symlink("/proc/self/exe", error);
  if (error) return {};
  return (executable.parent_path() / ".." / ".." / ".." / "models").lexically_normal();
}

fs::path model_beside_executable() {
  const fs::path models = models_beside_executable();
  return models.empty() ? models : models / "tiny";
}

CLI::Validator device_name() {
  const auto check = [](const std::string& text) {
    return parse_device(text).has_value() ? std::string() : fmt::format("\"{}\", expected cpu, cuda or cuda:N", text);
  };
  return CLI::Validator(check, "");
}

fs::path model_in_source_tree() {
  return fs::path(DSV4_SOURCE_DIR) / "models" / "tiny";
}

}  // namespace

void require_one_of(CLI::App& command, std::vector<CLI::Option*> options, size_t least, const std::string& what) {
  command.parse_complete_callback([options = std::move(options), least, what] {
    size_t num_given = 0;
    for (const CLI::Option* option : options) num_given += option->count() > 0 ? 1 : 0;
    if (num_given > 1 || num_given < least)
      throw CLI::ValidationError(fmt::format("{} {}, {} given", least == 1 ? "give one of" : "give at most one of", what, num_given));
  });
}

CLI::Validator whole_number(int64_t low, int64_t high) {
  return number_validator<int64_t>(low, high);
}

CLI::Validator unsigned_number() {
  return number_validator<uint64_t>(0, std::numeric_limits<uint64_t>::max());
}

CLI::Validator not_empty() {
  return CLI::Validator([](std::string& text) { return text.empty() ? std::string("is empty") : std::string(); }, "");
}

std::optional<fs::path> bundled_model() {
  for (const fs::path& directory : {model_beside_executable(), model_in_source_tree()}) {
    if (!directory.empty() && holds_model(directory)) return directory;
  }
  return std::nullopt;
}

Tokenizer load_tokenizer(const fs::path& model_dir) {
  return Tokenizer::from_file(model_dir / "tokenizer.json");
}

void require_vocabulary(const Tokenizer& tokenizer, const ModelConfig& config) {
  require(tokenizer.vocab_size() <= config.vocab_size, "tokenizer.json: {} tokens, the model has {}", tokenizer.vocab_size(),
          config.vocab_size);
}

void ModelArguments::add_model(CLI::App& command) {
  command.add_option("-m,--model", model, "Directory with config.json, tokenizer.json and safetensors (default: the bundled models/tiny)")
      ->type_name("DIR")
      ->check(not_empty());
}

void ModelArguments::add_backend(CLI::App& command) {
  command.add_option("--device", device, "What computes: cpu, cuda or cuda:N")
      ->type_name("NAME")
      ->capture_default_str()
      ->check(device_name());
  command.add_option("--threads", num_threads, "Threads of the CPU backend (default: DSV4_THREADS, else one per core)")
      ->type_name("N")
      ->transform(whole_number(1, kMaxThreads));
}

void ModelArguments::add_context(CLI::App& command) {
  command.add_option("--context", context, "Tokens that prompt and answer may have together (default: what the model has)")
      ->type_name("N")
      ->transform(whole_number_from(1));
}

void ModelArguments::add_all(CLI::App& command) {
  add_model(command);
  add_backend(command);
  add_context(command);
}

void ModelArguments::add_dummy(CLI::App& command) {
  CLI::Option* option =
      command
          .add_option("--dummy", dummy,
                      "Random weights in the shapes of Flash, of Pro or of a config.json, instead of a checkpoint: flash, pro "
                      "or FILE")
          ->type_name("MODEL")
          ->check(not_empty())
          ->excludes(command.get_option("--model"));
  command.add_option("--layers", layers, "Only the first N layers of the --dummy model (default: all)")
      ->type_name("N")
      ->transform(whole_number_from(1))
      ->needs(option);
}

std::optional<ModelConfig> ModelArguments::dummy_config() const {
  if (dummy.empty()) return std::nullopt;
  const ModelConfig config = full_config();
  return first_layers(config, layers > 0 ? layers : config.num_hidden_layers);
}

ModelConfig ModelArguments::full_config() const {
  if (dummy.empty()) return load_config(model_dir() / "config.json");
  if (dummy != "flash" && dummy != "pro") return load_config(dummy);
  const fs::path file = fs::path("configs") / (dummy + ".json");
  std::error_code ignored;
  const fs::path beside = models_beside_executable() / file;
  return load_config(fs::is_regular_file(beside, ignored) ? beside : fs::path(DSV4_SOURCE_DIR) / "models" / file);
}

std::string ModelArguments::name() const {
  const fs::path path = dummy.empty() ? model_dir() : fs::path(dummy);
  return path.has_filename() ? path.filename().string() : path.parent_path().filename().string();
}

fs::path ModelArguments::model_dir() const {
  if (model.empty()) {
    const std::optional<fs::path> bundled = bundled_model();
    require(bundled.has_value(), "no --model given, and the bundled model is neither in {} nor in {}", model_beside_executable().string(),
            model_in_source_tree().string());
    return *bundled;
  }
  std::error_code error;
  const fs::file_status status = fs::status(model, error);
  require(fs::exists(status), "--model {}: no such directory", model);
  require(fs::is_directory(status), "--model {}: expected a directory", model);
  require(holds_model(model), "--model {}: no config.json in it", model);
  return model;
}

bool ModelArguments::is_bundled() const {
  const std::optional<fs::path> bundled = bundled_model();
  std::error_code error;
  return bundled.has_value() && (model.empty() || fs::equivalent(model, *bundled, error));
}

int ModelArguments::threads(const Environment& environment) const {
  return num_threads > 0 ? num_threads : environment.num_threads.value_or(0);
}

std::unique_ptr<Backend> ModelArguments::make_backend(const Environment& environment) const {
  return dsv4::make_backend(device, threads(environment));
}

EngineOptions ModelArguments::engine_options(const Environment& environment) const {
  EngineOptions options;
  options.model_dir = model_dir();
  options.max_sequences = 1;
  options.max_context = context;
  options.num_threads = threads(environment);
  options.device = device;
  options.dummy = dummy_config();
  options.progress = make_load_progress();
  return options;
}

void SamplingArguments::add(CLI::App& command) {
  const auto float_option = [&](const char* name, auto& value, const char* help) { command.add_option(name, value, help)->type_name("X"); };
  float_option("--temperature", temperature, "0 = always the most likely token (default: the model's generation_config.json)");
  command.add_option("--top-k", params.top_k, "Draw from the K most likely tokens (default: 0 = all)")
      ->type_name("K")
      ->transform(whole_number_from(0));
  float_option("--top-p", top_p, "Draw from the most likely tokens that make up this probability (default: generation_config.json)");
  float_option("--min-p", params.min_p, "Drop tokens less likely than this share of the most likely one (default: 0)");
  float_option("--repetition-penalty", params.repetition_penalty,
               "Divides positive and multiplies negative logits of tokens seen (default: 1)");
  float_option("--presence-penalty", params.presence_penalty, "Subtracted from the logits of tokens of the answer (default: 0)");
  float_option("--frequency-penalty", params.frequency_penalty, "The same, times how often the token occurred (default: 0)");
  command.add_option("--logit-bias", logit_bias, "Added to the logit of a token, -inf bans it; may be given again")
      ->type_name("ID=VALUE")
      ->allow_extra_args(false);
  command.add_option("--seed", seed, "Seed of the draws (default: random)")->type_name("N")->transform(unsigned_number());
}

SamplingParams SamplingArguments::resolve(const fs::path& model_dir, int vocab_size) const {
  const GenerationDefaults defaults = load_generation_defaults(model_dir / "generation_config.json");
  SamplingParams resolved = params;
  resolved.temperature = temperature.value_or(defaults.temperature);
  resolved.top_p = top_p.value_or(defaults.top_p);
  if (seed.has_value()) {
    resolved.seed = *seed;
  } else {
    std::random_device random;
    resolved.seed = (uint64_t{random()} << 32) | random();
  }
  for (const std::string& text : logit_bias)
    resolved.logit_bias.insert_or_assign(parse_logit_bias(text).first, parse_logit_bias(text).second);
  validate(resolved, vocab_size);
  return resolved;
}

void AnswerArguments::add(CLI::App& command) {
  command.add_option("-n,--max-tokens", max_tokens, "Most tokens of an answer; 0 = as many as the context holds")
      ->type_name("N")
      ->capture_default_str()
      ->transform(whole_number_from(0));
  sampling.add(command);
  command.add_option("--stop", stop_strings, "End the answer before this text; may be given again")
      ->type_name("STRING")
      ->allow_extra_args(false);
  command.add_option("--stop-token", stop_token_ids, "End the answer at this token; may be given again")
      ->type_name("ID")
      ->allow_extra_args(false)
      ->transform(whole_number_from(0));
  command.add_flag("--ignore-eos", ignore_eos, "Go on when the model ends its answer");
}

GenerationOptions AnswerArguments::resolve(const fs::path& model_dir, int vocab_size) const {
  for (int32_t token_id : stop_token_ids) {
    require(token_id < vocab_size, "--stop-token {}: expected 0 to {}", token_id, vocab_size - 1);
  }
  for (const std::string& stop : stop_strings) require_utf8(stop, "--stop");
  return {sampling.resolve(model_dir, vocab_size), stop_strings, stop_token_ids, ignore_eos, max_tokens};
}

std::optional<ThinkMode> parse_think_mode(std::string_view name) {
  for (ThinkMode mode : {ThinkMode::kNone, ThinkMode::kHigh, ThinkMode::kMax}) {
    if (name == think_mode_name(mode)) return mode;
  }
  return std::nullopt;
}

const char* think_mode_name(ThinkMode mode) {
  switch (mode) {
    case ThinkMode::kNone:
      return "none";
    case ThinkMode::kHigh:
      return "high";
    case ThinkMode::kMax:
      return "max";
  }
  return "unknown";
}

void add_think_option(CLI::App& command, ThinkMode& mode) {
  const auto set_mode = [&mode](const std::string& name) {
    const std::optional<ThinkMode> parsed = parse_think_mode(name);
    if (!parsed) throw CLI::ValidationError("--think", fmt::format("\"{}\", expected none, high or max", name));
    mode = *parsed;
  };
  command.add_option_function<std::string>("--think", set_mode, "Reasoning before the answer: none, high or max (default: none)")
      ->type_name("MODE");
}

std::pair<int32_t, float> parse_logit_bias(const std::string& text) {
  const size_t equals = text.find('=');
  require(equals != std::string::npos, "--logit-bias \"{}\": expected ID=VALUE", text);
  int32_t token_id = 0;
  float bias = 0.0f;
  const char* const begin = text.data();
  const char* const end = begin + text.size();
  const auto id_end = std::from_chars(begin, begin + equals, token_id);
  require(id_end.ec == std::errc() && id_end.ptr == begin + equals, "--logit-bias \"{}\": the token id is no whole number", text);
  const auto bias_end = std::from_chars(begin + equals + 1, end, bias);
  require(bias_end.ec == std::errc() && bias_end.ptr == end && !std::isnan(bias), "--logit-bias \"{}\": the value is no number", text);
  return {token_id, bias};
}

std::vector<int32_t> parse_token_ids(std::string_view text, int vocab_size) {
  constexpr std::string_view kSeparators = ", \t\r\n[]";
  std::vector<int32_t> token_ids;
  for (size_t begin = text.find_first_not_of(kSeparators); begin != std::string_view::npos;) {
    const size_t end = std::min(text.find_first_of(kSeparators, begin), text.size());
    const std::string_view word = text.substr(begin, end - begin);
    int32_t token_id = -1;
    const auto [stop, code] = std::from_chars(word.data(), word.data() + word.size(), token_id);
    require(code == std::errc() && stop == word.data() + word.size() && token_id >= 0 && token_id < vocab_size,
            "\"{}\" is no token id, expected 0 to {}", word, vocab_size - 1);
    token_ids.push_back(token_id);
    begin = text.find_first_not_of(kSeparators, end);
  }
  return token_ids;
}

}  // namespace dsv4
