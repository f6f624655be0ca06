// Which backend computes: the one place that knows them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ops/backend.h"

namespace dsv4 {

// The CPU backend with `num_threads` threads, 0: one per core. Throws Error unless 0 ≤ num_threads ≤ 4096.
std::unique_ptr<Backend> make_backend(int num_threads);

// One line per device of this machine: "cpu: 2 cores", "cuda:0: NVIDIA H200, 139.8 GiB, 132 multiprocessors, sm_90". Devices that a build
// without CUDA cannot see are not listed.
std::vector<std::string> describe_devices();

}  // namespace dsv4
