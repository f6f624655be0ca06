#include "runtime/device.h"

#include <algorithm>
#include <thread>

#include "backend/cpu/backend.h"
#include "base/error.h"
#ifdef DSV4_WITH_CUDA
#include "backend/cuda/runtime/device.h"
#endif

namespace dsv4 {
namespace {

int num_cores() {
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace

std::unique_ptr<Backend> make_backend(int num_threads) {
  require(num_threads >= 0 && num_threads <= 4096, "threads: {}, expected 0 (every core) to 4096", num_threads);
  set_cpu_threads(num_threads > 0 ? num_threads : num_cores());
  return make_cpu_backend();
}

std::vector<std::string> describe_devices() {
  std::vector<std::string> lines{fmt::format("cpu: {} cores", num_cores())};
#ifdef DSV4_WITH_CUDA
  for (const CudaDevice& device : cuda_devices()) {
    lines.push_back(fmt::format("cuda:{}: {}, {:.1f} GiB, {} multiprocessors, sm_{}", lines.size() - 1, device.name,
                                static_cast<double>(device.memory_bytes) / (1 << 30), device.num_multiprocessors,
                                device.compute_capability));
  }
#endif
  return lines;
}

}  // namespace dsv4
