// dsv4 verify: compares a model with a golden file.
#include "cli/commands.h"
#include "cli/load_progress.h"
#include "cli/options.h"
#include "cli/output.h"
#include "runtime/verification.h"

namespace dsv4 {
namespace {

struct VerifyArguments {
  ModelArguments model;
  std::string golden_file;
  bool json = false;
};

int run_verify(const VerifyArguments& arguments, const Environment& environment) {
  const std::unique_ptr<Backend> backend = arguments.model.make_backend(environment);
  const VerifyReport report = verify({arguments.model.model_dir(), arguments.golden_file, make_load_progress()}, *backend);
  if (arguments.json) {
    print_json(report.json());
  } else {
    print(report.text());
    print(report.verdict() + "\n");
  }
  return report.pass() ? 0 : 1;
}

}  // namespace

Command add_verify(CLI::App& app, const Environment& environment) {
  CLI::App* command = app.add_subcommand("verify", "Compare the model's layers and logits with a golden file; exit status 0 if they agree");
  const auto arguments = std::make_shared<VerifyArguments>();
  arguments->model.add_model(*command);
  arguments->model.add_backend(*command);
  command->add_option("--golden", arguments->golden_file, "Golden activations and logits; variation.json beside it sets the limits")
      ->type_name("FILE")
      ->check(not_empty())
      ->required();
  command->add_flag("--json", arguments->json, "Print one JSON object instead, with the verdict as \"pass\"");
  command->footer(
      "Example: dsv4 verify --model tests/data/mini --golden tests/data/mini/golden.safetensors\n"
      "The last line is \"verify: PASS\" or \"verify: FAIL …\"; a model that fails gives exit status 1.");
  return {command, [arguments, environment] { return run_verify(*arguments, environment); }};
}

}  // namespace dsv4
