#include "support/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace dsv4::test {
namespace {

using Clock = std::chrono::steady_clock;

struct Pipe {
  int read = -1;
  int write = -1;
};

Pipe open_pipe() {
  int ends[2];
  require(pipe2(ends, O_CLOEXEC) == 0, "pipe: {}", std::strerror(errno));
  return {ends[0], ends[1]};
}

void close_end(int& end) {
  if (end >= 0) close(end);
  end = -1;
}

// The environment of this process with `changes` in place of variables of the same name.
std::vector<std::string> merged_environment(const std::vector<std::string>& changes) {
  std::vector<std::string> merged = changes;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string entry = *variable;
    const std::string name = entry.substr(0, entry.find('=') + 1);
    bool replaced = false;
    for (const std::string& change : changes) replaced = replaced || change.starts_with(name);
    if (!replaced) merged.push_back(entry);
  }
  return merged;
}

std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (const std::string& text : strings) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

// Starts the program with these ends as its standard streams, which are closed here.
pid_t start(const std::vector<std::string>& args, const std::vector<std::string>& environment, int& input, int& output, int& errors) {
  const std::vector<std::string> variables = merged_environment(environment);
  const std::vector<char*> argv = pointers(args);
  const std::vector<char*> envp = pointers(variables);
  const pid_t pid = fork();
  require(pid >= 0, "fork: {}", std::strerror(errno));
  if (pid == 0) {
    if (dup2(input, 0) < 0 || dup2(output, 1) < 0 || dup2(errors, 2) < 0) _exit(126);
    execve(argv[0], argv.data(), envp.data());
    _exit(127);
  }
  close_end(input);
  close_end(output);
  close_end(errors);
  return pid;
}

void set_status(int status, ProcessResult& result) {
  if (WIFEXITED(status)) result.exit_status = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) result.signal = WTERMSIG(status);
}

// Waits for the end of `pid`; kills it and throws where `deadline` passes before.
void wait_for(pid_t pid, Clock::time_point deadline, ProcessResult& result) {
  int status = 0;
  while (waitpid(pid, &status, WNOHANG) == 0) {
    if (Clock::now() >= deadline) {
      kill(pid, SIGKILL);
      waitpid(pid, &status, 0);
      fail("a program outlived its time limit");
    }
    usleep(2000);
  }
  set_status(status, result);
}

// Appends what `end` has to `text`; closes it at its end.
void drain(int& end, std::string& text) {
  char buffer[4096];
  const ssize_t count = read(end, buffer, sizeof(buffer));
  if (count > 0) {
    text.append(buffer, static_cast<size_t>(count));
  } else if (count == 0 || errno != EINTR) {
    close_end(end);
  }
}

int milliseconds_until(Clock::time_point deadline) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
  return left > 0 ? static_cast<int>(left) : 0;
}

}  // namespace

ProcessResult run_process(const ProcessOptions& options) {
  require(!options.args.empty(), "run_process: no program");
  signal(SIGPIPE, SIG_IGN);  // a program may end before it has read all its input
  Pipe input = open_pipe();
  Pipe output = open_pipe();
  Pipe errors = open_pipe();
  if (!options.stdout_file.empty()) {
    close_end(output.write);
    output.write = open(options.stdout_file.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    require(output.write >= 0, "{}: {}", options.stdout_file.string(), std::strerror(errno));
  }
  if (!options.stdout_file.empty() || options.close_stdout) close_end(output.read);
  const pid_t pid = start(options.args, options.environment, input.read, output.write, errors.write);

  ProcessResult result;
  const Clock::time_point deadline = Clock::now() + options.time_limit;
  size_t num_written = 0;
  fcntl(input.write, F_SETFL, O_NONBLOCK);
  if (options.input.empty()) close_end(input.write);
  while (output.read >= 0 || errors.read >= 0) {
    pollfd ends[3] = {{input.write, POLLOUT, 0}, {output.read, POLLIN, 0}, {errors.read, POLLIN, 0}};
    const int num_ready = poll(ends, 3, milliseconds_until(deadline));
    if (num_ready == 0) break;  // wait_for() finds the deadline passed
    if (num_ready < 0) continue;
    if (ends[0].revents != 0) {
      const ssize_t count = write(input.write, options.input.data() + num_written, options.input.size() - num_written);
      if (count > 0) num_written += static_cast<size_t>(count);
      if (num_written == options.input.size() || (count < 0 && errno != EAGAIN && errno != EINTR)) close_end(input.write);
    }
    if (ends[1].revents != 0) drain(output.read, result.out);
    if (ends[2].revents != 0) drain(errors.read, result.err);
  }
  close_end(input.write);
  close_end(output.read);
  close_end(errors.read);
  wait_for(pid, deadline, result);
  return result;
}

InteractiveProcess::InteractiveProcess(const std::vector<std::string>& args) {
  signal(SIGPIPE, SIG_IGN);
  Pipe input = open_pipe();
  Pipe output = open_pipe();
  Pipe errors = open_pipe();
  pid_ = start(args, {}, input.read, output.write, errors.write);
  input_ = input.write;
  output_ = output.read;
  errors_ = errors.read;
}

InteractiveProcess::~InteractiveProcess() {
  close_end(input_);
  close_end(output_);
  close_end(errors_);
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
}

void InteractiveProcess::write(const std::string& text) {
  size_t num_written = 0;
  while (num_written < text.size()) {
    const ssize_t count = ::write(input_, text.data() + num_written, text.size() - num_written);
    if (count < 0 && errno == EINTR) continue;
    require(count > 0, "write to a program: {}", std::strerror(errno));
    num_written += static_cast<size_t>(count);
  }
}

bool InteractiveProcess::read_some(Clock::time_point deadline) {
  if (output_ < 0 && errors_ < 0) return false;
  pollfd ends[2] = {{output_, POLLIN, 0}, {errors_, POLLIN, 0}};
  const int num_ready = poll(ends, 2, milliseconds_until(deadline));
  if (num_ready < 0 && errno == EINTR) return true;
  if (num_ready <= 0) return false;
  if (ends[0].revents != 0) drain(output_, out_);
  if (ends[1].revents != 0) drain(errors_, err_);
  return true;
}

std::string InteractiveProcess::read_until(const std::string& text) {
  const Clock::time_point deadline = Clock::now() + std::chrono::seconds(60);
  while (true) {
    const size_t found = out_.find(text, num_seen_);
    if (found != std::string::npos) {
      const size_t end = found + text.size();
      const std::string seen = out_.substr(num_seen_, end - num_seen_);
      num_seen_ = end;
      return seen;
    }
    require(read_some(deadline), "\"{}\" is not in the program's output \"{}\" (errors \"{}\")", text, out_.substr(num_seen_), err_);
  }
}

void InteractiveProcess::send_signal(int signal) {
  kill(pid_, signal);
}

ProcessResult InteractiveProcess::finish() {
  close_end(input_);
  const Clock::time_point deadline = Clock::now() + std::chrono::seconds(60);
  while (read_some(deadline)) {
  }
  ProcessResult result;
  const pid_t pid = pid_;
  pid_ = -1;
  wait_for(pid, deadline, result);
  result.out = out_;
  result.err = err_;
  return result;
}

}  // namespace dsv4::test
