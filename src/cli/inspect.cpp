// dsv4 inspect: what a model is, whether its files are whole, and what it needs.
#include "model/inspect.h"

#include <fmt/ranges.h>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/output.h"
#include "runtime/device.h"

namespace dsv4 {
namespace {

struct InspectArguments {
  ModelArguments model;
  std::string config;
  MemoryRequest request;
  ValueCheck check = ValueCheck::kStandard;
  bool json = false;
};

int run_inspect(const InspectArguments& arguments) {
  MemoryRequest request = arguments.request;
  request.context = arguments.model.context;
  const std::filesystem::path path = arguments.config.empty() ? arguments.model.model_dir() : std::filesystem::path(arguments.config);
  const Inspection inspection = inspect(path, request, arguments.check);
  if (arguments.json) {
    nlohmann::ordered_json report = inspection_json(inspection);
    report["devices"] = describe_devices();
    print_json(report);
  } else {
    print(fmt::format("{}\nthis machine\n  {}\n", inspection_text(inspection), fmt::join(describe_devices(), "\n  ")));
  }
  return 0;
}

ValueCheck parse_check(const std::string& name) {
  if (name == "none") return ValueCheck::kNone;
  if (name == "standard") return ValueCheck::kStandard;
  if (name == "all") return ValueCheck::kAll;
  throw CLI::ValidationError("--check", fmt::format("\"{}\", expected none, standard or all", name));
}

}  // namespace

Command add_inspect(CLI::App& app) {
  CLI::App* command = app.add_subcommand("inspect", "Show a model's configuration, check its files, and plan its memory");
  const auto arguments = std::make_shared<InspectArguments>();
  arguments->model.add_model(*command);
  CLI::Option* config =
      command->add_option("--config", arguments->config, "A config.json alone, without weights")->type_name("FILE")->check(not_empty());
  config->excludes(command->get_option("--model"));
  command->add_option("--gpus", arguments->request.num_gpus, "GPUs that share the weights")
      ->type_name("N")
      ->capture_default_str()
      ->transform(whole_number_from(1));
  command->add_option("--gpu-memory", arguments->request.gpu_memory_gib, "Memory of each GPU in GiB, to compare the plan with")
      ->type_name("GIB");
  arguments->model.add_context(*command);
  command->add_option("--sequences", arguments->request.num_seqs, "Sequences open at once")
      ->type_name("N")
      ->capture_default_str()
      ->transform(whole_number_from(1));
  command
      ->add_option_function<std::string>(
          "--check", [arguments](const std::string& name) { arguments->check = parse_check(name); },
          "Values to read: none (names and shapes only), standard, or all (default: standard)")
      ->type_name("LEVEL");
  command->add_flag("--json", arguments->json, "Print one JSON object");
  command->footer(
      "Example: dsv4 inspect --config config.json --gpus 2 --gpu-memory 141 --context 131072 --sequences 4\n"
      "Exit status 0 if the files can be used, whether or not the plan fits.");
  return {command, [arguments] { return run_inspect(*arguments); }};
}

}  // namespace dsv4
