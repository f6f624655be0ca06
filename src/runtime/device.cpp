#include "runtime/device.h"

#include <algorithm>
#include <thread>

#include "backend/cpu/backend.h"
#include "base/error.h"

namespace dsv4 {

std::unique_ptr<Backend> make_backend(int num_threads) {
  require(num_threads >= 0 && num_threads <= 4096, "threads: {}, expected 0 (every core) to 4096", num_threads);
  const int num_cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  set_cpu_threads(num_threads > 0 ? num_threads : num_cores);
  return make_cpu_backend();
}

}  // namespace dsv4
