#include "runtime/device.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <thread>

#include "backend/cpu/backend.h"
#include "base/error.h"
#include "base/printable.h"
#ifdef DSV4_WITH_CUDA
#include "backend/cuda/runtime/backend.h"
#include "backend/cuda/runtime/device.h"
#endif

namespace dsv4 {
namespace {

int num_cores() {
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

// proc_cpuinfo(5); "a processor" where the system does not tell.
std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "a processor";
}

}  // namespace

std::optional<int> parse_device(std::string_view device) {
  constexpr std::string_view kCuda = "cuda";
  if (device == "cpu") return -1;
  if (device == kCuda) return 0;
  if (!device.starts_with("cuda:")) return std::nullopt;
  const char* const begin = device.data() + kCuda.size() + 1;
  const char* const end = device.data() + device.size();
  int device_idx = -1;
  const auto [stop, code] = std::from_chars(begin, end, device_idx);
  if (code != std::errc() || stop != end || device_idx < 0) return std::nullopt;
  return device_idx;
}

std::unique_ptr<Backend> make_backend(std::string_view device, int num_threads) {
  require(num_threads >= 0 && num_threads <= 4096, "threads: {}, expected 0 (every core) to 4096", num_threads);
  const std::optional<int> device_idx = parse_device(device);
  require(device_idx.has_value(), "device \"{}\", expected cpu, cuda or cuda:N", printable(device));
  set_cpu_threads(num_threads > 0 ? num_threads : num_cores());
  if (*device_idx < 0) return make_cpu_backend();
#ifdef DSV4_WITH_CUDA
  return make_cuda_backend(*device_idx);
#else
  fail("device {}: this program was built without CUDA (preset cuda builds it where nvcc is found)", device);
#endif
}

std::string machine_name(std::string_view device) {
  const std::optional<int> device_idx = parse_device(device);
  require(device_idx.has_value(), "device \"{}\", expected cpu, cuda or cuda:N", printable(device));
#ifdef DSV4_WITH_CUDA
  if (*device_idx >= 0) {
    const std::vector<CudaDevice> devices = cuda_devices();
    require(*device_idx < static_cast<int>(devices.size()), "device cuda:{}: this machine has {} CUDA devices", *device_idx,
            devices.size());
    return devices[static_cast<size_t>(*device_idx)].name;
  }
#endif
  require(*device_idx < 0, "device {}: this program was built without CUDA", device);
  return fmt::format("{} cores of {}", num_cores(), processor_name());
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
