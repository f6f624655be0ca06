// Text that commands read: files, standard input, the command line.
#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace dsv4 {

inline constexpr size_t kMaxInputBytes = size_t{1} << 30;      // of a text read as a whole
inline constexpr size_t kMaxInputLineBytes = size_t{1} << 28;  // of one line of a batch

// The whole of a file, or of standard input where `path` is "-". Throws Error "PATH: reason" for what cannot be read and for more than
// kMaxInputBytes.
std::string read_input(const std::string& path);

// The same, and the text must be valid UTF-8.
std::string read_input_text(const std::string& path);

// Throws Error naming the first bad byte unless `text` is valid UTF-8. `where` begins the line.
void require_utf8(std::string_view text, std::string_view where);

// Calls `on_line(line)` for every line of a file or standard input ("-"), without its line end. Throws Error as read_input() does.
void read_input_lines(const std::string& path, const std::function<void(std::string_view)>& on_line);

}  // namespace dsv4
