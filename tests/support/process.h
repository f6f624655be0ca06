// Runs a program and captures what it prints, for tests of the binary.
#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace dsv4::test {

struct ProcessOptions {
  std::vector<std::string> args;         // args[0] is the program's path
  std::string input;                     // its standard input, closed after the last byte
  std::vector<std::string> environment;  // "NAME=value", on top of this process's environment
  std::filesystem::path stdout_file;     // where standard output goes instead of ProcessResult::out
  bool close_stdout = false;             // standard output is a pipe that nobody reads
  std::chrono::seconds time_limit{300};  // after which the program is killed
};

struct ProcessResult {
  int exit_status = -1;  // −1 where a signal ended it
  int signal = 0;        // the signal that ended it, 0 if none
  std::string out;
  std::string err;
};

// Throws Error where the program cannot be started or outlives the time limit.
ProcessResult run_process(const ProcessOptions& options);

// A program that a test talks to line by line.
class InteractiveProcess {
 public:
  explicit InteractiveProcess(const std::vector<std::string>& args);
  ~InteractiveProcess();
  InteractiveProcess(const InteractiveProcess&) = delete;
  InteractiveProcess& operator=(const InteractiveProcess&) = delete;

  void write(const std::string& text);
  // Waits until standard output holds `text` after what earlier calls returned; returns everything up to its end. Throws Error where the
  // output ends or a minute passes before that.
  std::string read_until(const std::string& text);
  void send_signal(int signal);
  // Closes its standard input and waits for its end.
  ProcessResult finish();

 private:
  bool read_some(std::chrono::steady_clock::time_point deadline);

  int pid_ = -1;
  int input_ = -1;
  int output_ = -1;
  int errors_ = -1;
  std::string out_;
  std::string err_;
  size_t num_seen_ = 0;  // bytes of out_ that read_until() has returned
};

}  // namespace dsv4::test
