// Which backend computes: the one place that knows them.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ops/backend.h"

namespace dsv4 {

// The CUDA device of "cuda" (0) or "cuda:N", −1 for "cpu", nothing for any other text.
std::optional<int> parse_device(std::string_view device);

// The backend of `device`: "cpu", "cuda" or "cuda:N". `num_threads`: threads of the CPU ops, 0: one per core. Throws Error unless 0 ≤
// num_threads ≤ 4096, for any other name, and where the build, the driver or the device is missing, saying which.
std::unique_ptr<Backend> make_backend(std::string_view device, int num_threads);

// The machine as results name it: "NVIDIA H200" for a CUDA device, "2 cores of AMD EPYC" for the CPU. `device` as make_backend() takes it.
std::string machine_name(std::string_view device);

// One line per device of this machine: "cpu: 2 cores", "cuda:0: NVIDIA H200, 139.8 GiB, 132 multiprocessors, sm_90". Devices that a build
// without CUDA cannot see are not listed.
std::vector<std::string> describe_devices();

}  // namespace dsv4
