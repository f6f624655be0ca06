// dsv4 parse: what the model wrote, taken apart into a message.
#include "base/error.h"
#include "cli/commands.h"
#include "cli/conversation.h"
#include "cli/input.h"
#include "cli/options.h"
#include "cli/output.h"
#include "text/batch.h"

namespace dsv4 {
namespace {

struct ParseArguments {
  std::string file = "-";
  std::string batch;
  ThinkMode think = ThinkMode::kNone;
};

int run_parse(const ParseArguments& arguments) {
  if (!arguments.batch.empty()) {
    read_input_lines(arguments.batch, [](std::string_view line) { print(parse_batch_line(line) + "\n"); });
    return 0;
  }
  print(message_json(parse_completion(read_input_text(arguments.file), thinking_mode(arguments.think))).dump() + "\n");
  return 0;
}

}  // namespace

Command add_parse(CLI::App& app) {
  CLI::App* command = app.add_subcommand("parse", "Take a completion apart into reasoning, content and tool calls");
  const auto arguments = std::make_shared<ParseArguments>();
  CLI::Option* file =
      command->add_option("file", arguments->file, "The completion's text, its control tokens spelled out; - = standard input")
          ->type_name("FILE")
          ->check(not_empty());
  CLI::Option* batch = command->add_option("--batch", arguments->batch, "JSON lines {\"text\", \"thinking_mode\"} (- = standard input)")
                           ->type_name("FILE")
                           ->check(not_empty());
  add_think_option(*command, arguments->think);
  batch->excludes(file)->excludes(command->get_option("--think"));
  command->footer(
      "Example: printf 'Hello.<｜end▁of▁sentence｜>' | dsv4 parse\n"
      "The text is read byte for byte. A batch gives the message or {\"error\": \"…\"} per line and exit status 0.");
  return {command, [arguments] { return run_parse(*arguments); }};
}

}  // namespace dsv4
