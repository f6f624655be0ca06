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

// A command of --help and a usage error that belong to the command given, if one was.
std::string usage_hint(const std::vector<Command>& commands) {
  for (const Command& command : commands) {
    if (command.app->parsed()) return fmt::format("see dsv4 {} --help", command.app->get_name());
  }
  return "see dsv4 --help";
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
    flush_output();
    return 0;
  } catch (const CLI::CallForHelp&) {
    print(app.help());
    flush_output();
    return 0;
  } catch (const CLI::ParseError& error) {
    print_error(fmt::format("{} ({})", error.what(), usage_hint(commands)));
    return kUsageError;
  }
  for (const Command& command : commands) {
    if (!command.app->parsed()) continue;
    const int status = command.run();
    flush_output();
    return status;
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
