// Which backend computes: the one place that knows them.
#pragma once

#include <memory>

#include "ops/backend.h"

namespace dsv4 {

// The CPU backend with `num_threads` threads, 0: one per core. Throws Error unless 0 ≤ num_threads ≤ 4096.
std::unique_ptr<Backend> make_backend(int num_threads);

}  // namespace dsv4
