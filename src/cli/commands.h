// The commands of the binary, one file each.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

#include "base/env.h"

namespace dsv4 {

// A command's options, and what it does once the whole command line was accepted. `run` returns the exit status and throws Error.
struct Command {
  CLI::App* app = nullptr;
  std::function<int()> run;
};

Command add_generate(CLI::App& app, const Environment& environment);
Command add_chat(CLI::App& app, const Environment& environment);
Command add_tokenize(CLI::App& app);
Command add_encode(CLI::App& app);
Command add_parse(CLI::App& app);
Command add_inspect(CLI::App& app);
Command add_verify(CLI::App& app, const Environment& environment);
Command add_perplexity(CLI::App& app, const Environment& environment);
Command add_bench(CLI::App& app, const Environment& environment);

}  // namespace dsv4
