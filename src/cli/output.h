// Standard output and error lines of the commands.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace dsv4 {

// Writes to standard output at once. Throws Error where that fails: a full disk, a pipe that nobody reads.
void print(std::string_view text);
// Prints an object as one line.
void print_json(const nlohmann::ordered_json& value);

// Writes one line to standard error; failures are ignored, there is nowhere to report them.
void print_note(std::string_view line);
// The one line of a failed command: "dsv4: error: MESSAGE".
void print_error(std::string_view message);

// `text` with control characters (line ends included) as \n, \t, \xHH, so that whatever it quotes it stays one line.
std::string one_line(std::string_view text);

}  // namespace dsv4
