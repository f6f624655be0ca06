// dsv4 generate: one answer to one prompt.
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/conversation.h"
#include "cli/input.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/process_stats.h"

namespace dsv4 {
namespace {

constexpr int kDefaultMaxTokens = 512;

struct GenerateArguments {
  ModelArguments model;
  AnswerArguments answer;
  std::string text;  // positional
  std::optional<std::string> prompt;
  std::string prompt_file;
  std::string system;
  ThinkMode think = ThinkMode::kNone;
  bool raw = false;
  bool json = false;
  bool quiet = false;
};

std::string read_prompt(const GenerateArguments& arguments) {
  const std::string& given = arguments.prompt.has_value() ? *arguments.prompt : arguments.text;
  std::string prompt;
  if (!arguments.prompt_file.empty()) {
    prompt = read_input_text(arguments.prompt_file);
  } else if (given == "-") {
    prompt = read_input_text("-");
  } else {
    require_utf8(given, "the prompt");
    prompt = given;
  }
  require(!prompt.empty(), "the prompt is empty");
  return prompt;
}

std::vector<int32_t> encode_prompt(const GenerateArguments& arguments, const std::string& prompt, const Tokenizer& tokenizer) {
  if (!arguments.raw) {
    Conversation conversation;
    conversation.set_system(arguments.system);
    conversation.add_user(prompt);
    return conversation.prompt_ids(tokenizer, arguments.think);
  }
  std::vector<int32_t> ids = {tokenizer.bos_id()};
  const std::vector<int32_t> text_ids = tokenizer.encode(prompt, SpecialTokens::kPlain);
  ids.insert(ids.end(), text_ids.begin(), text_ids.end());
  return ids;
}

// Speed of one answer.
struct Speed {
  double load_seconds = 0.0;         // model and tokenizer
  double first_token_seconds = 0.0;  // since the start of the process
  double prompt_rate = 0.0;          // tokens per second
  double decode_rate = 0.0;          // tokens per second after the first; 0 if there is none
};

Speed measure(const Generation& generation, double load_seconds, double first_token_seconds) {
  const GenerationTimes& times = generation.times();
  const size_t num_decoded = generation.answer().tokens().size() - 1;
  return {load_seconds, first_token_seconds, generation.num_fed_tokens() / times.prompt,
          num_decoded == 0 ? 0.0 : static_cast<double>(num_decoded) / times.decode};
}

nlohmann::ordered_json logprobs_json(const std::vector<SampledToken>& tokens, const Tokenizer& tokenizer) {
  const auto entry = [&](int32_t token_id, float logprob) {
    return nlohmann::ordered_json{{"token_id", token_id}, {"token", tokenizer.decode({&token_id, 1})}, {"logprob", logprob}};
  };
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  for (const SampledToken& token : tokens) {
    nlohmann::ordered_json one = entry(token.token_id, token.logprob);
    one["top"] = nlohmann::ordered_json::array();
    for (const TokenLogprob& alternative : token.top) one["top"].push_back(entry(alternative.token_id, alternative.logprob));
    all.push_back(one);
  }
  return all;
}

void print_report(const GenerateArguments& arguments, const GenerationOptions& options, const Generation& generation,
                  std::span<const int32_t> prompt_ids, const Tokenizer& tokenizer, const Speed& speed) {
  const Answer& answer = generation.answer();
  Completion parts;
  if (arguments.raw) {
    parts.content = answer.text();
  } else {
    parts = split_answer(answer.text(), arguments.think, answer.ended_by_eos());
  }
  std::vector<int32_t> token_ids;
  for (const SampledToken& token : answer.tokens()) token_ids.push_back(token.token_id);

  nlohmann::ordered_json report;
  report["text"] = answer.text();
  const Json message = message_json(std::move(parts));
  for (const char* part : {"content", "reasoning_content", "tool_calls"})
    report[part] = nlohmann::ordered_json::parse(message.find(part)->dump());
  report["finish_reason"] = finish_reason_name(answer.finish_reason());
  report["prompt_token_ids"] = prompt_ids;
  report["token_ids"] = token_ids;
  report["seed"] = options.sampling.seed;
  report["usage"] = {{"prompt_tokens", prompt_ids.size()},
                     {"completion_tokens", token_ids.size()},
                     {"total_tokens", prompt_ids.size() + token_ids.size()}};
  report["timings"] = {{"load_seconds", speed.load_seconds},
                       {"first_token_seconds", speed.first_token_seconds},
                       {"prompt_seconds", generation.times().prompt},
                       {"decode_seconds", generation.times().decode},
                       {"prompt_tokens_per_second", speed.prompt_rate},
                       {"decode_tokens_per_second", speed.decode_rate}};
  if (options.sampling.num_logprobs > 0) report["logprobs"] = logprobs_json(answer.tokens(), tokenizer);
  print_json(report);
}

void print_speed(const GenerationOptions& options, const Generation& generation, const Speed& speed) {
  const Answer& answer = generation.answer();
  print_note(
      fmt::format("[prompt {} tokens, {:.1f} tok/s; answer {} tokens, {:.1f} tok/s; first token {:.2f} s after start; finish {}; seed {}]",
                  generation.num_prompt_tokens(), speed.prompt_rate, answer.tokens().size(), speed.decode_rate, speed.first_token_seconds,
                  finish_reason_name(answer.finish_reason()), options.sampling.seed));
}

int run_generate(const GenerateArguments& arguments, const Environment& environment) {
  const std::string prompt = read_prompt(arguments);
  require_utf8(arguments.system, "--system");
  const auto load_start = std::chrono::steady_clock::now();
  const std::filesystem::path model_dir = arguments.model.model_dir();
  const Tokenizer tokenizer = load_tokenizer(model_dir);
  Engine engine(arguments.model.engine_options(environment));
  require_vocabulary(tokenizer, engine.config());
  const std::chrono::duration<double> load_time = std::chrono::steady_clock::now() - load_start;
  const GenerationOptions options = arguments.answer.resolve(model_dir, engine.config().vocab_size);
  const std::vector<int32_t> prompt_ids = encode_prompt(arguments, prompt, tokenizer);

  Generation generation(engine, tokenizer, engine.open_sequence(), prompt_ids, options);
  double first_token_seconds = 0.0;
  while (!generation.done()) {
    const std::string piece = generation.next();
    if (first_token_seconds == 0.0) first_token_seconds = seconds_since_process_start();
    if (arguments.json || piece.empty()) continue;
    print(piece);
  }
  const Speed speed = measure(generation, load_time.count(), first_token_seconds);
  if (arguments.json) {
    print_report(arguments, options, generation, prompt_ids, tokenizer, speed);
  } else {
    print("\n");
  }
  if (!arguments.quiet) print_speed(options, generation, speed);
  return 0;
}

}  // namespace

Command add_generate(CLI::App& app, const Environment& environment) {
  CLI::App* command = app.add_subcommand("generate", "Answer one prompt, or continue a text");
  const auto arguments = std::make_shared<GenerateArguments>();
  arguments->answer.max_tokens = kDefaultMaxTokens;
  arguments->model.add_all(*command);
  arguments->model.add_dummy(*command);
  CLI::Option* text = command->add_option("text", arguments->text, "The prompt; - reads it from standard input")->type_name("TEXT");
  CLI::Option* prompt =
      command->add_option("-p,--prompt", arguments->prompt, "The same, for a prompt that begins with a dash")->type_name("TEXT");
  CLI::Option* file =
      command->add_option("--prompt-file", arguments->prompt_file, "Reads the prompt from a file")->type_name("FILE")->check(not_empty());
  require_one_of(*command, {text, prompt, file}, 1, "TEXT, --prompt and --prompt-file");
  CLI::Option* system = command->add_option("--system", arguments->system, "System message before the prompt")->type_name("TEXT");
  add_think_option(*command, arguments->think);
  CLI::Option* raw =
      command->add_flag("--raw", arguments->raw, "Continue the prompt as plain text instead of answering it as a user's message");
  raw->excludes(system)->excludes(command->get_option("--think"));
  arguments->answer.add(*command);
  CLI::Option* json = command->add_flag("--json", arguments->json, "Print one JSON object: the answer's parts, token ids, usage, timings");
  command
      ->add_option("--logprobs", arguments->answer.sampling.params.num_logprobs,
                   "Log-probabilities of the N best tokens at each place, with --json")
      ->type_name("N")
      ->transform(whole_number(0, kMaxLogprobs))
      ->needs(json);
  command->add_flag("-q,--quiet", arguments->quiet, "No line about speed on standard error");
  command->footer(
      "Example: dsv4 generate --think none --temperature 0 \"Who was Moses?\"\n"
      "The answer goes to standard output as it is made (with --think, the reasoning and </think> before it), a line end after it.");
  return {command, [arguments, environment] { return run_generate(*arguments, environment); }};
}

}  // namespace dsv4
