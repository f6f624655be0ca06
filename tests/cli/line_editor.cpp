#include "cli/line_editor.h"

#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/dsv4.h"

namespace dsv4::test {
namespace {

// `dsv4 chat` on a terminal of its own.
class TerminalChat {
 public:
  TerminalChat() {
    pid_ = forkpty(&terminal_, nullptr, nullptr, nullptr);
    if (pid_ == 0) {
      setenv("TERM", "xterm", 1);
      execl(kBinary.c_str(), "dsv4", "chat", "--threads", "1", nullptr);
      _exit(127);
    }
  }
  ~TerminalChat() {
    if (pid_ > 0 && !ended_) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    close(terminal_);
  }

  void type(const std::string& keys) { EXPECT_EQ(write(terminal_, keys.data(), keys.size()), static_cast<ssize_t>(keys.size())); }

  // Reads until the screen has shown `text` after what earlier calls found; false where the program ends or a minute passes first.
  bool shows(const std::string& text) {
    while (true) {
      const size_t found = screen_.find(text, num_seen_);
      if (found != std::string::npos) {
        num_seen_ = found + text.size();
        return true;
      }
      pollfd input = {terminal_, POLLIN, 0};
      if (poll(&input, 1, 60000) != 1) return false;
      char buffer[4096];
      const ssize_t count = read(terminal_, buffer, sizeof(buffer));
      if (count <= 0) return false;
      screen_.append(buffer, static_cast<size_t>(count));
    }
  }

  // Reads to the end; the exit status.
  int finish() {
    while (shows("\n")) {
    }
    int status = 0;
    waitpid(pid_, &status, 0);
    ended_ = true;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  const std::string& screen() const { return screen_; }

 private:
  pid_t pid_ = -1;
  int terminal_ = -1;
  std::string screen_;
  size_t num_seen_ = 0;
  bool ended_ = false;
};

TEST(LineEditor, EditsAndRemembersLines) {
  TerminalChat chat;
  ASSERT_TRUE(chat.shows("> ")) << chat.screen();
  chat.type("/thi好\x7fnk high\r");  // one key takes back one character of three bytes
  ASSERT_TRUE(chat.shows("dsv4: think high")) << chat.screen();
  ASSERT_TRUE(chat.shows("> ")) << chat.screen();
  chat.type("\x1b[A\r");  // the line before once more
  ASSERT_TRUE(chat.shows("dsv4: think high")) << chat.screen();
  ASSERT_TRUE(chat.shows("> ")) << chat.screen();
  chat.type("/quit\r");
  EXPECT_EQ(chat.finish(), 0) << chat.screen();
}

TEST(LineEditor, CtrlCBreaksOffTheLineAndCtrlDLeaves) {
  TerminalChat chat;
  ASSERT_TRUE(chat.shows("> ")) << chat.screen();
  chat.type("/frobnicate");
  ASSERT_TRUE(chat.shows("/frobnicate")) << chat.screen();
  chat.type("\x03");
  ASSERT_TRUE(chat.shows("^C")) << chat.screen();
  ASSERT_TRUE(chat.shows("> ")) << chat.screen();
  chat.type("\x04");
  EXPECT_EQ(chat.finish(), 0) << chat.screen();
  EXPECT_EQ(chat.screen().find("unknown command"), std::string::npos) << chat.screen();
}

}  // namespace
}  // namespace dsv4::test
