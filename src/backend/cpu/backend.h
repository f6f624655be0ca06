// The CPU backend: the oracle for every device, and the default where there is no GPU.
#pragma once

#include <memory>

#include "ops/backend.h"

namespace dsv4 {

std::unique_ptr<Backend> make_cpu_backend();

// Threads the CPU ops use from now on (process-wide); ≥ 1.
void set_cpu_threads(int num_threads);

}  // namespace dsv4
