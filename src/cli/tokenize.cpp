// dsv4 tokenize: text to token ids and back.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/input.h"
#include "cli/options.h"
#include "cli/output.h"
#include "text/json.h"

namespace dsv4 {
namespace {

struct TokenizeArguments {
  ModelArguments model;
  std::string tokenizer_file;  // instead of the model's
  std::vector<std::string> words;
  std::optional<std::string> text;
  std::string file;
  std::string decode;
  std::string batch;
  bool plain = false;
  bool json = false;
};

std::string read_text(const TokenizeArguments& arguments) {
  if (!arguments.file.empty()) return read_input_text(arguments.file);
  if (arguments.text.has_value()) {
    require_utf8(*arguments.text, "--text");
    return *arguments.text;
  }
  if (arguments.words.empty() || (arguments.words.size() == 1 && arguments.words.front() == "-")) return read_input_text("-");
  std::string text = fmt::format("{}", fmt::join(arguments.words, " "));
  require_utf8(text, "the text");
  return text;
}

SpecialTokens special_tokens(const TokenizeArguments& arguments) {
  return arguments.plain ? SpecialTokens::kPlain : SpecialTokens::kMatch;
}

std::string ids_json(const std::vector<int32_t>& ids) {
  return fmt::format("[{}]", fmt::join(ids, ", "));
}

// {"text": "…"} → [id, …] or {"error": "…"}.
std::string tokenize_line(std::string_view line, const Tokenizer& tokenizer, SpecialTokens mode) {
  try {
    const Json value = Json::parse(line);
    const Json* text = value.find("text");
    require(text != nullptr && text->is_string(), "expected an object with a string \"text\"");
    return ids_json(tokenizer.encode(text->string(), mode));
  } catch (const Error& error) {
    return Json(Json::Object{{"error", Json(error.what())}}).dump();
  }
}

void print_ids(const std::vector<int32_t>& ids, const Tokenizer& tokenizer, bool json) {
  if (!json) return print(fmt::format("{}\n", fmt::join(ids, " ")));
  nlohmann::ordered_json report;
  report["ids"] = ids;
  report["pieces"] = nlohmann::ordered_json::array();
  for (int32_t id : ids) report["pieces"].push_back(tokenizer.decode({&id, 1}));
  print_json(report);
}

int run_tokenize(const TokenizeArguments& arguments) {
  const Tokenizer tokenizer =
      arguments.tokenizer_file.empty() ? load_tokenizer(arguments.model.model_dir()) : Tokenizer::from_file(arguments.tokenizer_file);
  if (!arguments.batch.empty()) {
    read_input_lines(arguments.batch,
                     [&](std::string_view line) { print(tokenize_line(line, tokenizer, special_tokens(arguments)) + "\n"); });
  } else if (!arguments.decode.empty()) {
    const std::string ids = arguments.decode == "-" ? read_input("-") : arguments.decode;
    const std::string text = tokenizer.decode(parse_token_ids(ids, tokenizer.vocab_size()));
    print((arguments.json ? Json(Json::Object{{"text", Json(text)}}).dump() : text) + "\n");
  } else {
    print_ids(tokenizer.encode(read_text(arguments), special_tokens(arguments)), tokenizer, arguments.json);
  }
  return 0;
}

}  // namespace

Command add_tokenize(CLI::App& app) {
  CLI::App* command = app.add_subcommand("tokenize", "Turn text into token ids, or ids into text");
  const auto arguments = std::make_shared<TokenizeArguments>();
  arguments->model.add_model(*command);
  command->add_option("--tokenizer", arguments->tokenizer_file, "A tokenizer.json instead of the model's")
      ->type_name("FILE")
      ->check(not_empty());
  CLI::Option* words =
      command->add_option("text", arguments->words, "The text, joined by spaces; - or nothing reads it from standard input")
          ->type_name("TEXT");
  CLI::Option* text = command->add_option("--text", arguments->text, "The text as one argument")->type_name("TEXT");
  CLI::Option* file = command->add_option("--file", arguments->file, "The text of a file")->type_name("FILE")->check(not_empty());
  CLI::Option* decode =
      command->add_option("--decode", arguments->decode, "Token ids, separated by commas or spaces, to turn into text; - = standard input")
          ->type_name("IDS")
          ->check(not_empty());
  CLI::Option* batch =
      command
          ->add_option("--batch", arguments->batch, "JSON lines {\"text\": \"…\"} (- = standard input); prints one array of ids per line")
          ->type_name("FILE")
          ->check(not_empty());
  require_one_of(*command, {words, text, file, decode, batch}, 0, "TEXT, --text, --file, --decode and --batch");
  command->add_flag("--plain", arguments->plain, "\"<think>\" and the like are ordinary text, not control tokens");
  command->add_flag("--json", arguments->json, "Print a JSON object: ids and the text of each");
  command->footer(
      "Example: dsv4 tokenize --json \"In the beginning\"\n"
      "A bad line of a batch gives {\"error\": \"…\"} in its place; the exit status is 0 all the same. Bytes of a token that are no\n"
      "UTF-8 by themselves are shown as U+FFFD.");
  return {command, [arguments] { return run_tokenize(*arguments); }};
}

}  // namespace dsv4
