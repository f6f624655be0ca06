// dsv4 chat: a conversation, line by line.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/conversation.h"
#include "cli/input.h"
#include "cli/interrupt.h"
#include "cli/line_editor.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/reasoning_view.h"
#include "text/utf8.h"

namespace dsv4 {
namespace {

struct ChatArguments {
  ModelArguments model;
  AnswerArguments answer;
  std::string system;
  ThinkMode think = ThinkMode::kNone;
};

constexpr const char* kHelp =
    "/help                  this text\n"
    "/reset                 start a new conversation\n"
    "/system TEXT           set the system message (without TEXT: none) and start a new conversation\n"
    "/think none|high|max   reasoning before the answers\n"
    "/quit                  leave, as Ctrl-D does\n"
    "Ctrl-C                 stop the answer";

class Chat {
 public:
  Chat(const ChatArguments& arguments, const Environment& environment)
      : tokenizer_(load_tokenizer(arguments.model.model_dir())),
        engine_(arguments.model.engine_options(environment)),
        options_(arguments.answer.resolve(arguments.model.model_dir(), engine_.config().vocab_size)),
        think_(arguments.think),
        sequence_id_(engine_.open_sequence()) {
    require_vocabulary(tokenizer_, engine_.config());
    require_utf8(arguments.system, "--system");
    conversation_.set_system(arguments.system);
  }

  int run() {
    LineEditor editor("> ", interrupt_);
    if (editor.is_terminal()) print_note("/help lists the commands, Ctrl-D leaves");
    while (true) {
      const std::optional<std::string> line = editor.read_line();
      if (!line.has_value()) {
        if (editor.is_terminal()) print("\n");  // Ctrl-D leaves the cursor behind the prompt
        return 0;
      }
      if (line->find_first_not_of(" \t\r") == std::string::npos) continue;
      if (*line == "/quit") return 0;
      if (line->front() == '/') {
        command(*line);
      } else if (utf8_valid_prefix(*line) != line->size()) {
        print_note(fmt::format("dsv4: invalid UTF-8 at byte {} of the line; it was not sent", utf8_valid_prefix(*line)));
      } else {
        answer(*line);
      }
    }
  }

 private:
  void command(const std::string& line) {
    const size_t name_end = std::min(line.find(' '), line.size());
    const std::string name = line.substr(0, name_end);
    const size_t rest_begin = line.find_first_not_of(' ', name_end);
    const std::string rest = rest_begin == std::string::npos ? "" : line.substr(rest_begin);
    if (name == "/help") {
      print_note(kHelp);
    } else if (name == "/reset") {
      conversation_.clear();
      print_note("dsv4: a new conversation");
    } else if (name == "/system") {
      if (utf8_valid_prefix(rest) != rest.size()) return print_note("dsv4: /system: invalid UTF-8");
      conversation_.set_system(rest);
      conversation_.clear();
      print_note("dsv4: a new conversation");
    } else if (name == "/think") {
      const std::optional<ThinkMode> mode = parse_think_mode(rest);
      if (!mode) return print_note(fmt::format("dsv4: /think \"{}\": expected none, high or max", one_line(rest)));
      think_ = *mode;
      print_note(fmt::format("dsv4: think {}", think_mode_name(think_)));
    } else {
      print_note(fmt::format("dsv4: unknown command {}, /help lists them", one_line(name)));
    }
  }

  // Makes the engine's sequence a beginning of the prompt, keeping what it has computed where it can; returns what is still to be fed.
  std::span<const int32_t> reuse_sequence(std::span<const int32_t> prompt_ids) {
    const std::span<const int32_t> computed = engine_.tokens(sequence_id_);
    const auto differ = std::mismatch(computed.begin(), computed.end(), prompt_ids.begin(), prompt_ids.end());
    // The last token of the prompt is always fed: its logits are wanted.
    const size_t num_common = std::min(static_cast<size_t>(differ.first - computed.begin()), prompt_ids.size() - 1);
    const size_t num_back = computed.size() - num_common;
    if (num_back > static_cast<size_t>(engine_.max_rewind(sequence_id_))) {
      engine_.close_sequence(sequence_id_);
      sequence_id_ = engine_.open_sequence();
      return prompt_ids;
    }
    engine_.rewind(sequence_id_, static_cast<int>(num_back));
    return prompt_ids.subspan(num_common);
  }

  void answer(const std::string& line) {
    conversation_.add_user(line);
    const std::vector<int32_t> prompt_ids = conversation_.prompt_ids(tokenizer_, think_);
    if (prompt_ids.size() >= static_cast<size_t>(engine_.max_context())) {
      conversation_.pop();
      return print_note(fmt::format("dsv4: the context is full: {} tokens with this message, {} fit; /reset starts a new conversation",
                                    prompt_ids.size(), engine_.max_context()));
    }
    const std::span<const int32_t> new_ids = reuse_sequence(prompt_ids);
    interrupt_.take();  // one that came before the answer is not meant for it
    Generation generation(engine_, tokenizer_, sequence_id_, new_ids, options_, [this] { return interrupt_.take(); });
    ++options_.sampling.seed;  // the next answer draws other numbers
    ReasoningView view(think_ != ThinkMode::kNone, isatty(STDOUT_FILENO) != 0);
    while (!generation.done()) print(view.push(generation.next()));
    print(view.finish() + "\n");
    const Answer& answer = generation.answer();
    conversation_.add_assistant(split_answer(answer.text(), think_, answer.ended_by_eos()));
    report_end(generation);
  }

  void report_end(const Generation& generation) const {
    const Answer& answer = generation.answer();
    const size_t num_tokens = answer.tokens().size();
    if (answer.finish_reason() == FinishReason::kCancelled) print_note("dsv4: stopped");
    if (answer.finish_reason() != FinishReason::kLength) return;
    if (static_cast<size_t>(generation.num_prompt_tokens()) + num_tokens >= static_cast<size_t>(engine_.max_context())) {
      print_note(fmt::format("dsv4: the context of {} tokens is full, the answer is cut; /reset starts a new conversation",
                             engine_.max_context()));
    } else {
      print_note(fmt::format("dsv4: the answer is cut after {} tokens (--max-tokens)", num_tokens));
    }
  }

  Interrupt interrupt_;  // before the engine, which starts threads
  Tokenizer tokenizer_;
  Engine engine_;
  GenerationOptions options_;
  ThinkMode think_;
  int sequence_id_;
  Conversation conversation_;
};

}  // namespace

Command add_chat(CLI::App& app, const Environment& environment) {
  CLI::App* command = app.add_subcommand("chat", "Talk with the model");
  const auto arguments = std::make_shared<ChatArguments>();
  arguments->model.add_all(*command);
  command->add_option("--system", arguments->system, "System message")->type_name("TEXT");
  add_think_option(*command, arguments->think);
  arguments->answer.add(*command);
  command->footer(
      std::string("Example: dsv4 chat --system \"Answer briefly.\"\n"
                  "Every line is a message; where standard input is a terminal it can be edited, with a history. Answers go to standard\n"
                  "output, everything else to standard error. Lines that begin with a slash are commands:\n") +
      kHelp);
  return {command, [arguments, environment] { return Chat(*arguments, environment).run(); }};
}

}  // namespace dsv4
