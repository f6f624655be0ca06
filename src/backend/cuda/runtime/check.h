// Checks of CUDA calls. Free of host libraries, so that .cu files may include it.
#pragma once

#include <cuda_runtime_api.h>

namespace dsv4::cuda {

// Throws Error: "cudaMalloc: out of memory (embed)"; `context` names what was being done.
[[noreturn]] void fail_cuda(cudaError_t status, const char* call, const char* context);

// Throws Error with a line made by printf from `format`.
[[noreturn]] void fail_line(const char* format, ...) __attribute__((format(printf, 1, 2)));

inline void check(cudaError_t status, const char* call, const char* context = "") {
  if (status != cudaSuccess) fail_cuda(status, call, context);
}

}  // namespace dsv4::cuda
