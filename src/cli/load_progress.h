// A line on standard error that tells how far the weights are.
#pragma once

#include <cstdint>
#include <string>

#include "model/weights.h"

namespace dsv4 {

// "loading 12.30 of 148.65 GiB, 8.20 GiB/s, 17 s left"; what cannot be told yet is left out.
std::string load_progress_text(int64_t bytes_done, int64_t bytes_total, double seconds);

// Keeps the line up to date; removed when everything is there, or when the function goes (an error unwinds). Nothing where standard error
// is no terminal.
LoadProgress make_load_progress();

}  // namespace dsv4
