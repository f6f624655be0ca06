#include "cli/dsv4.h"

namespace dsv4::test {
namespace {

const std::vector<std::string> kCommands = {"generate", "chat", "tokenize", "encode", "parse", "inspect", "verify", "perplexity", "bench"};

TEST(Main, VersionAndHelpGoToStandardOutput) {
  EXPECT_EQ(dsv4_output({"--version"}), "dsv4 0.1.0\n");
  const std::string help = dsv4_output({"--help"});
  for (const std::string& command : kCommands) {
    EXPECT_NE(help.find("  " + command + " "), std::string::npos) << command;
    const std::string own = dsv4_output({command, "--help"});
    EXPECT_NE(own.find("Example: "), std::string::npos) << command;
    EXPECT_NE(own.find("dsv4 " + command), std::string::npos) << command;
  }
}

TEST(Main, RefusesCommandLinesItDoesNotKnow) {
  expect_usage_error({}, "no command, expected one of generate, chat");
  expect_usage_error({"frobnicate"}, "\"frobnicate\"");
  expect_usage_error({"--frobnicate"}, "--frobnicate");
  for (const std::string& command : kCommands)
    expect_usage_error({command, "--frobnicate"}, "\"--frobnicate\" (see dsv4 " + command + " --help)");
}

TEST(Main, ChecksTheEnvironmentFirst) {
  ProcessOptions options;
  options.environment = {"DSV4_FROBNICATE=1"};
  expect_error(run_dsv4({"--version"}, "", options), 1, "DSV4_FROBNICATE");
  options.environment = {"DSV4_LOG=loud"};
  expect_error(run_dsv4({"--version"}, "", options), 1, "DSV4_LOG: \"loud\"");
}

TEST(Main, NoticesThatStandardOutputIsFullOrClosed) {
  ProcessOptions full;
  full.stdout_file = "/dev/full";
  ProcessOptions closed;
  closed.close_stdout = true;
  const std::vector<std::vector<std::string>> command_lines = {
      {"--version"},
      {"generate", "--help"},
      {"tokenize", "word"},
      {"generate", "-n", "2", "-q", "word"},
      {"generate", "-n", "2", "-q", "--json", "word"},
  };
  for (const std::vector<std::string>& args : command_lines) {
    expect_error(run_dsv4(args, "", full), 1, "cannot write to standard output: No space left on device");
    expect_error(run_dsv4(args, "", closed), 1, "cannot write to standard output: Broken pipe");
  }
}

TEST(Main, AnErrorIsOneLineWhateverItQuotes) {
  expect_failure({"tokenize", "--file", "no\nsuch\tfile"}, "no\\nsuch\\tfile: No such file or directory");
}

}  // namespace
}  // namespace dsv4::test
