#include "cli/commands.h"
namespace dsv4 {
Command add_inspect(CLI::App& app) {
  CLI::App* command = app.add_subcommand("inspect", "Show");
  return {command, [] { return 0; }};
}
}  // namespace dsv4
