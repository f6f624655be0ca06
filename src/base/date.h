// Dates of recorded results.
#pragma once

#include <string>

namespace dsv4 {

// Today in UTC, YYYY-MM-DD.
std::string today();

}  // namespace dsv4
