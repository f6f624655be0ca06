// dsv4: the command line. One line "dsv4: error: …" on standard error and a non-zero exit status for everything that goes wrong: 2 for a
// command line that is not understood, 1 for the rest.
#include <signal.h>

#include <exception>
#include <new>
#include <vector>

#include "base/env.h"
#include "cli/commands.h"
#include "cli/output.h"

namespace dsv4 {
namespace {

constexpr int kFailure = 1;
constexpr int kUsageError = 2;

// The line for a command line that CLI11 refuses.
std::string usage_error(const CLI::App& app, const std::vector<Command>& commands, const CLI::ParseError& error) {
  std::string names;
  for (const Command& command : commands) {
    if (command.app->parsed()) {
      // A misspelt option is the likely cause of whatever else is missing.
      const std::vector<std::string> unknown = command.app->remaining();
      const std::string what = unknown.empty() ? error.what() : fmt::format("unknown option or argument \"{}\"", unknown.front());
      return fmt::format("{} (see dsv4 {} --help)", what, command.app->get_name());
    }
    names.append(names.empty() ? "" : ", ").append(command.app->get_name());
  }
  if (!app.remaining().empty()) return fmt::format("unknown command or option \"{}\", the commands are {}", app.remaining().front(), names);
  return fmt::format("no command, expected one of {}", names);
}

int run(int argc, char** argv) {
  const Environment environment = check_environment();
  CLI::App app("DeepSeek-V4 inference.", "dsv4");
  app.set_version_flag("--version", "dsv4 " DSV4_VERSION);
  app.require_subcommand(1);
  app.footer("dsv4 COMMAND --help tells more, with an example.");
  app.get_formatter()->column_width(34);
  const std::vector<Command> commands = {
      add_generate(app, environment),
      add_chat(app, environment),
      add_tokenize(app),
      add_encode(app),
      add_parse(app),
      add_inspect(app),
      add_verify(app, environment),
      add_perplexity(app, environment),
      add_bench(app, environment),
  };
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForVersion& version) {
    print(std::string(version.what()) + "\n");
    return 0;
  } catch (const CLI::CallForHelp&) {
    print(app.help());
    return 0;
  } catch (const CLI::ParseError& error) {
    print_error(usage_error(app, commands, error));
    return kUsageError;
  }
  for (const Command& command : commands) {
    if (command.app->parsed()) return command.run();
  }
  return kUsageError;
}

}  // namespace
}  // namespace dsv4

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);  // a pipe that nobody reads is an error of the write
  try {
    return dsv4::run(argc, argv);
  } catch (const std::bad_alloc&) {
    dsv4::print_error("out of memory");
  } catch (const std::exception& error) {
    dsv4::print_error(error.what());
  }
  return dsv4::kFailure;
}
