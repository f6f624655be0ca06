// dsv4 perplexity: how many bits the model needs for a text.
#include "runtime/perplexity.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/input.h"
#include "cli/load_progress.h"
#include "cli/options.h"
#include "cli/output.h"
#include "text/tokenizer.h"

namespace dsv4 {
namespace {

struct PerplexityArguments {
  ModelArguments model;
  std::string file;
  PerplexityOptions options;
  bool json = false;
};

// The text to measure: the file given, else the held-out text beside the bundled model.
std::string text_path(const PerplexityArguments& arguments) {
  if (!arguments.file.empty()) return arguments.file;
  require(arguments.model.is_bundled(), "perplexity: no text file given (only the bundled model brings one)");
  return (arguments.model.model_dir() / "heldout.txt").string();
}

double share(int64_t part, int64_t whole) {
  return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
}

void print_report(const PerplexityReport& report, const std::string& path, size_t num_bytes, const PerplexityOptions& options) {
  nlohmann::ordered_json json;
  json["file"] = path;
  json["bytes"] = num_bytes;
  json["tokens"] = report.num_tokens;
  json["window"] = options.window;
  json["bits_per_token"] = report.bits_per_token();
  json["bits_per_byte"] = report.bits / static_cast<double>(num_bytes);
  json["perplexity"] = std::exp2(report.bits_per_token());
  if (options.with_mtp) {
    json["mtp"] = {{"predictions", report.mtp.num_predictions},
                   {"equal_to_text", share(report.mtp.num_equal_text, report.mtp.num_predictions)},
                   {"equal_to_main", share(report.mtp.num_equal_main, report.mtp.num_predictions)}};
  }
  print_json(json);
}

int run_perplexity(const PerplexityArguments& arguments, const Environment& environment) {
  const std::filesystem::path model_dir = arguments.model.model_dir();
  const std::string path = text_path(arguments);
  const std::string text = read_input_text(path);
  require(!text.empty(), "{}: the text is empty", path);
  const Tokenizer tokenizer = load_tokenizer(model_dir);
  const std::unique_ptr<Backend> backend = arguments.model.make_backend(environment);
  const Checkpoint checkpoint = Checkpoint::open(model_dir);
  require_vocabulary(tokenizer, checkpoint.config());
  const std::vector<int32_t> token_ids = tokenizer.encode(text, SpecialTokens::kPlain);
  PerplexityOptions perplexity_options = arguments.options;
  perplexity_options.progress = make_load_progress();
  const PerplexityReport report = measure_perplexity(checkpoint, *backend, token_ids, perplexity_options);

  if (arguments.json) {
    print_report(report, path, text.size(), arguments.options);
    return 0;
  }
  print(fmt::format("{}: {} bytes, {} tokens, windows of {}\n", one_line(path), text.size(), report.num_tokens, arguments.options.window));
  print(fmt::format("bits per byte   {:.4f}\n", report.bits / static_cast<double>(text.size())));
  print(fmt::format("bits per token  {:.4f}\n", report.bits_per_token()));
  print(fmt::format("perplexity      {:.3f}\n", std::exp2(report.bits_per_token())));
  if (arguments.options.with_mtp) {
    const MtpReport& mtp = report.mtp;
    print(fmt::format("MTP block       {:.1f} % of {} predictions equal the text, {:.1f} % the main model's own choice\n",
                      100.0 * share(mtp.num_equal_text, mtp.num_predictions), mtp.num_predictions,
                      100.0 * share(mtp.num_equal_main, mtp.num_predictions)));
  }
  return 0;
}

}  // namespace

Command add_perplexity(CLI::App& app, const Environment& environment) {
  CLI::App* command = app.add_subcommand("perplexity", "Measure how well the model predicts a text");
  const auto arguments = std::make_shared<PerplexityArguments>();
  arguments->model.add_model(*command);
  arguments->model.add_backend(*command);
  command->add_option("file", arguments->file, "UTF-8 text, - for standard input (default: heldout.txt of the bundled model)")
      ->type_name("FILE")
      ->check(not_empty());
  command->add_option("--window", arguments->options.window, "Tokens predicted by one sequence; windows do not overlap")
      ->type_name("N")
      ->capture_default_str()
      ->transform(whole_number_from(1));
  command->add_flag("--mtp", arguments->options.with_mtp, "Also follow the predictions of the MTP block");
  command->add_flag("--json", arguments->json, "Print one JSON object");
  command->footer("Example: dsv4 perplexity --window 1023 book.txt");
  return {command, [arguments, environment] { return run_perplexity(*arguments, environment); }};
}

}  // namespace dsv4
