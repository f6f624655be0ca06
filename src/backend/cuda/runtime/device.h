// The CUDA devices of this machine.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace dsv4 {

struct CudaDevice {
  std::string name;
  size_t memory_bytes = 0;
  int num_multiprocessors = 0;
  int compute_capability = 0;  // 10·major + minor: 90 is Hopper
};

// Empty where there is no driver or no device. Throws Error when the driver answers but a device cannot be asked.
std::vector<CudaDevice> cuda_devices();

// Why cuda_devices() is empty: "no CUDA driver on this machine", or what the driver says.
std::string why_no_device();

// Bytes of the current device that nobody has allocated. Throws Error.
size_t free_device_memory();

}  // namespace dsv4
