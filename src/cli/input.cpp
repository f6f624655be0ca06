#include "cli/input.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "base/error.h"
#include "text/utf8.h"

namespace dsv4 {
namespace {

// A file descriptor read block by block.
class InputFile {
 public:
  explicit InputFile(const std::string& path) : name_(path == "-" ? "standard input" : path) {
    file_ = path == "-" ? STDIN_FILENO : open(path.c_str(), O_RDONLY | O_CLOEXEC);
    require(file_ >= 0, "{}: {}", name_, std::strerror(errno));
    struct stat status = {};
    const bool is_directory = fstat(file_, &status) == 0 && S_ISDIR(status.st_mode);
    if (is_directory) {
      close_file();
      fail("{}: is a directory, expected a file", name_);
    }
  }
  ~InputFile() { close_file(); }
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  const std::string& name() const { return name_; }

  // The next bytes; nothing at the end.
  std::string_view read_block() {
    while (true) {
      const ssize_t count = read(file_, block_, sizeof(block_));
      if (count >= 0) return {block_, static_cast<size_t>(count)};
      require(errno == EINTR, "{}: {}", name_, std::strerror(errno));
    }
  }

 private:
  void close_file() {
    if (file_ > STDIN_FILENO) close(file_);
  }

  std::string name_;
  int file_;
  char block_[65536];
};

}  // namespace

std::string read_input(const std::string& path) {
  InputFile input(path);
  std::string text;
  for (std::string_view block = input.read_block(); !block.empty(); block = input.read_block()) {
    require(text.size() + block.size() <= kMaxInputBytes, "{}: more than {} bytes", input.name(), kMaxInputBytes);
    text.append(block);
  }
  return text;
}

void require_utf8(std::string_view text, std::string_view where) {
  const size_t num_valid = utf8_valid_prefix(text);
  require(num_valid == text.size(), "{}: invalid UTF-8 at byte {}", where, num_valid);
}

std::string read_input_text(const std::string& path) {
  std::string text = read_input(path);
  require_utf8(text, path == "-" ? "standard input" : path);
  return text;
}

void read_input_lines(const std::string& path, const std::function<void(std::string_view)>& on_line) {
  InputFile input(path);
  std::string line;
  for (std::string_view block = input.read_block(); !block.empty(); block = input.read_block()) {
    for (size_t end = block.find('\n'); end != std::string_view::npos; end = block.find('\n')) {
      line.append(block.substr(0, end));
      if (line.ends_with('\r')) line.pop_back();
      on_line(line);
      line.clear();
      block.remove_prefix(end + 1);
    }
    line.append(block);
    require(line.size() <= kMaxInputLineBytes, "{}: a line of more than {} bytes", input.name(), kMaxInputLineBytes);
  }
  if (!line.empty()) on_line(line);
}

}  // namespace dsv4
