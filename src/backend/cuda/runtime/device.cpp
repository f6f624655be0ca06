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

}  // namespace dsv4
