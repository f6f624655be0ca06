// dsv4 encode: messages to the prompt that the model continues.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/conversation.h"
#include "cli/input.h"
#include "cli/options.h"
#include "cli/output.h"
#include "text/batch.h"
#include "text/json.h"

namespace dsv4 {
namespace {

struct EncodeArguments {
  ModelArguments model;  // --ids
  std::string file = "-";
  std::string batch;
  ThinkMode think = ThinkMode::kNone;
  bool keep_thinking = false;
  bool ids = false;
};

// The messages of a file: an array, or an object with "messages" and, for its first message, "tools".
Json read_messages(const std::string& path) {
  const std::string text = read_input(path);
  Json document;
  try {
    document = Json::parse(text);
  } catch (const Error& error) {
    fail("{}: {}", path == "-" ? "standard input" : path, error.what());
  }
  if (document.is_array()) return document;
  const Json* messages = document.find("messages");
  require(messages != nullptr, "{}: expected an array of messages or an object with \"messages\"", path == "-" ? "standard input" : path);
  const Json* tools = document.find("tools");
  if (tools == nullptr || !messages->is_array() || messages->array().empty() || !messages->array().front().is_object()) return *messages;
  Json::Array with_tools = messages->array();
  Json::Object first = with_tools.front().object();
  if (with_tools.front().find("tools") == nullptr) first.emplace_back("tools", *tools);
  with_tools.front() = Json(std::move(first));
  return Json(std::move(with_tools));
}

int run_encode(const EncodeArguments& arguments) {
  if (!arguments.batch.empty()) {
    read_input_lines(arguments.batch, [](std::string_view line) { print(encode_batch_line(line) + "\n"); });
    return 0;
  }
  ChatOptions options = chat_options(arguments.think);
  options.drop_thinking = !arguments.keep_thinking;
  const Prompt prompt = encode_chat(read_messages(arguments.file), options);
  if (arguments.ids) {
    print(fmt::format("{}\n", fmt::join(load_tokenizer(arguments.model.model_dir()).encode(prompt.segments), " ")));
  } else {
    print(prompt.text());
  }
  return 0;
}

}  // namespace

Command add_encode(CLI::App& app) {
  CLI::App* command = app.add_subcommand("encode", "Turn messages into the prompt that the model continues");
  const auto arguments = std::make_shared<EncodeArguments>();
  CLI::Option* file =
      command->add_option("file", arguments->file, "JSON: an array of messages, or {\"messages\": […], \"tools\": […]}; - = standard input")
          ->type_name("FILE")
          ->check(not_empty());
  CLI::Option* batch =
      command
          ->add_option("--batch", arguments->batch,
                       "JSON lines {\"messages\", \"thinking_mode\", \"drop_thinking\", \"reasoning_effort\"} (- = standard input)")
          ->type_name("FILE")
          ->check(not_empty());
  add_think_option(*command, arguments->think);
  CLI::Option* keep = command->add_flag("--keep-thinking", arguments->keep_thinking, "Keep the reasoning of earlier turns");
  CLI::Option* ids =
      command->add_flag("--ids", arguments->ids, "Print token ids instead of the text; no message can forge a control token in them");
  arguments->model.add_model(*command);
  batch->excludes(file)->excludes(command->get_option("--think"))->excludes(keep)->excludes(ids);
  command->footer(
      "Example: echo '[{\"role\": \"user\", \"content\": \"Hello\"}]' | dsv4 encode --think high\n"
      "The prompt is printed byte for byte, without a line end after it. A batch gives {\"prompt\": \"…\"} or {\"error\": \"…\"} per line\n"
      "and exit status 0.");
  return {command, [arguments] { return run_encode(*arguments); }};
}

}  // namespace dsv4
