#include "backend/cuda/runtime/device.h"

#include <cuda_runtime_api.h>

#include "base/error.h"

namespace dsv4 {

std::vector<CudaDevice> cuda_devices() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();  // no driver or no device is no failure; clear it
    return {};
  }
  std::vector<CudaDevice> devices;
  for (int device_idx = 0; device_idx < count; ++device_idx) {
    cudaDeviceProp properties{};
    const cudaError_t status = cudaGetDeviceProperties(&properties, device_idx);
    require(status == cudaSuccess, "CUDA device {}: {}", device_idx, cudaGetErrorString(status));
    devices.push_back(
        {properties.name, properties.totalGlobalMem, properties.multiProcessorCount, 10 * properties.major + properties.minor});
  }
  return devices;
}

std::string why_no_device() {
  int driver_version = 0;
  if (cudaDriverGetVersion(&driver_version) != cudaSuccess || driver_version == 0) {
    cudaGetLastError();
    return "no CUDA driver on this machine";
  }
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  cudaGetLastError();
  return status == cudaSuccess ? "no CUDA device on this machine" : cudaGetErrorString(status);
}

size_t free_device_memory() {
  size_t free_bytes = 0;
  size_t device_bytes = 0;
  const cudaError_t status = cudaMemGetInfo(&free_bytes, &device_bytes);
  require(status == cudaSuccess, "cudaMemGetInfo: {}", cudaGetErrorString(status));
  return free_bytes;
}

}  // namespace dsv4
