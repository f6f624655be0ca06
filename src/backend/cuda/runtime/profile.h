// Times on the device, for benchmarks.
#pragma once

#include <functional>
#include <vector>

#include "backend/cuda/runtime/launch.h"
#include "ops/backend.h"

namespace dsv4::cuda {

// Runs `ops` and times every launch on the context's stream with a pair of events.
std::vector<ProfiledLaunch> profile_launches(Context& context, const std::function<void()>& ops);

// Bytes a second that copies from one large buffer to another read and write together.
double measure_copy_rate(cudaStream_t stream);

}  // namespace dsv4::cuda
