// The CUDA backend.
#pragma once

#include <memory>

#include "ops/backend.h"

namespace dsv4 {

// The backend of CUDA device `device_idx`. Throws Error where there is no driver, no such device, or the device is no Hopper GPU.
std::unique_ptr<Backend> make_cuda_backend(int device_idx);

}  // namespace dsv4
