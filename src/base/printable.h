// Text from files, made fit for a one-line message.
#pragma once

#include <string>
#include <string_view>

namespace dsv4 {

// `text` with control and non-ASCII bytes as \xNN, cut to at most `max_length` characters and "…".
std::string printable(std::string_view text, size_t max_length = 120);

}  // namespace dsv4
