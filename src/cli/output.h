// Standard output and error lines of the commands.
#pragma once

#include <string>
#include <string_view>

namespace dsv4 {

// Writes to standard output (buffered). Throws Error where that fails: a full disk, a pipe that nobody reads.
void print(std::string_view text);
// Hands everything printed to the system. Throws Error as print() does.
void flush_output();

// Writes one line to standard error; failures are ignored, there is nowhere to report them.
void print_note(std::string_view line);
// The one line of a failed command: "dsv4: error: MESSAGE".
void print_error(std::string_view message);

// `text` with control characters (line ends included) as \n, \t, \xHH, so that whatever it quotes it stays one line.
std::string one_line(std::string_view text);

}  // namespace dsv4
