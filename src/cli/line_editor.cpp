#include "cli/line_editor.h"

#include <histedit.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cstring>
#include <cwchar>

#include "base/error.h"
#include "cli/output.h"

namespace dsv4 {
namespace {

constexpr int kHistoryLines = 1000;
constexpr size_t kMaxLineBytes = size_t{1} << 24;

// Lets libedit measure UTF-8 text; what else a locale changes stays as it is.
void use_utf8_characters() {
  if (std::setlocale(LC_CTYPE, "C.UTF-8") == nullptr) std::setlocale(LC_CTYPE, "");
}

// One line of standard input, read byte by byte so that nothing behind it is taken; nothing at the end.
std::optional<std::string> read_plain_line() {
  std::string line;
  while (true) {
    char byte = 0;
    const ssize_t count = read(STDIN_FILENO, &byte, 1);
    if (count < 0 && errno == EINTR) continue;
    require(count >= 0, "standard input: {}", std::strerror(errno));
    if (count == 0) return line.empty() ? std::nullopt : std::optional(line);
    if (byte == '\n') {
      if (line.ends_with('\r')) line.pop_back();
      return line;
    }
    require(line.size() < kMaxLineBytes, "standard input: a line of more than {} bytes", kMaxLineBytes);
    line.push_back(byte);
  }
}

}  // namespace

struct LineEditor::Terminal {
  EditLine* editor;
  History* lines;
  HistEvent event = {};

  explicit Terminal(LineEditor* owner) : editor(el_init("dsv4", stdin, stdout, stderr)), lines(history_init()) {
    require(editor != nullptr && lines != nullptr, "the terminal cannot be used for line editing");
    history(lines, &event, H_SETSIZE, kHistoryLines);
    history(lines, &event, H_SETUNIQUE, 1);
    el_set(editor, EL_CLIENTDATA, owner);
    el_set(editor, EL_PROMPT, &Terminal::prompt);
    el_set(editor, EL_EDITOR, "emacs");
    el_set(editor, EL_HIST, history, lines);
    el_set(editor, EL_GETCFN, &Terminal::read_character);
  }

  ~Terminal() {
    history_end(lines);
    el_end(editor);
  }

  static LineEditor& owner_of(EditLine* editor) {
    LineEditor* owner = nullptr;
    el_get(editor, EL_CLIENTDATA, &owner);
    return *owner;
  }

  static const char* prompt(EditLine* editor) { return owner_of(editor).prompt_.c_str(); }

  // Waits for a key or Ctrl-C: libedit's own reader would miss one that comes just before it waits.
  static int read_character(EditLine* editor, wchar_t* character) {
    Interrupt& interrupt = owner_of(editor).interrupt_;
    std::mbstate_t state = {};
    while (true) {
      pollfd inputs[2] = {{STDIN_FILENO, POLLIN, 0}, {interrupt.descriptor(), POLLIN, 0}};
      if (poll(inputs, 2, -1) < 0 && errno != EINTR) return -1;
      if (inputs[1].revents != 0 && interrupt.take()) {
        errno = EINTR;
        return -1;
      }
      if (inputs[0].revents == 0) continue;
      char byte = 0;
      const ssize_t count = read(STDIN_FILENO, &byte, 1);
      if (count <= 0) return static_cast<int>(count);
      const size_t length = std::mbrtowc(character, &byte, 1, &state);
      if (length == static_cast<size_t>(-2)) continue;  // the character has more bytes
      if (length == static_cast<size_t>(-1)) *character = L'\ufffd';
      return 1;
    }
  }
};

LineEditor::LineEditor(std::string prompt, Interrupt& interrupt) : prompt_(std::move(prompt)), interrupt_(interrupt) {
  if (isatty(STDIN_FILENO) == 0 || isatty(STDOUT_FILENO) == 0) return;
  use_utf8_characters();
  terminal_ = std::make_unique<Terminal>(this);
}

LineEditor::~LineEditor() = default;

std::optional<std::string> LineEditor::read_line() {
  if (terminal_ == nullptr) return read_plain_line();
  int count = 0;
  el_resize(terminal_->editor);
  // Raw mode before the prompt is shown, not with the first key: a key typed between the two would be handled by the terminal.
  el_set(terminal_->editor, EL_PREP_TERM, 1);
  errno = 0;
  const char* text = el_gets(terminal_->editor, &count);
  if (text == nullptr && count < 0 && errno == EINTR) {
    print("^C\n");
    return std::string();
  }
  if (text == nullptr || count <= 0) return std::nullopt;
  std::string line(text, static_cast<size_t>(count));
  if (line.ends_with('\n')) line.pop_back();
  if (!line.empty()) history(terminal_->lines, &terminal_->event, H_ENTER, line.c_str());
  return line;
}

}  // namespace dsv4
