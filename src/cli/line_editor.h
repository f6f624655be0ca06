// Lines from the user: edited on a terminal, read plainly from anything else.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "cli/interrupt.h"

namespace dsv4 {

class LineEditor {
 public:
  // `prompt` is shown where standard input is a terminal. `interrupt` must outlive the editor.
  LineEditor(std::string prompt, Interrupt& interrupt);
  ~LineEditor();
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;

  // The next line without its line end; nothing at the end of the input (Ctrl-D on a terminal). A line that Ctrl-C breaks off is empty.
  std::optional<std::string> read_line();

  bool is_terminal() const { return terminal_ != nullptr; }

 private:
  struct Terminal;

  std::string prompt_;
  Interrupt& interrupt_;
  std::unique_ptr<Terminal> terminal_;
};

}  // namespace dsv4
