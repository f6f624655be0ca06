#include "backend/cpu/copy_rate.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "backend/cpu/parallel.h"
#include "ops/buffer.h"

namespace dsv4::cpu {
namespace {

constexpr size_t kBytes = size_t{1} << 28;
constexpr int kRuns = 4;

}  // namespace

double measure_copy_rate(Backend& backend) {
  const Buffer source(backend, kBytes);
  const Buffer destination(backend, kBytes);
  std::memset(source.as<void>(), 1, kBytes);  // zero pages would all be one page
  double best_seconds = 0.0;
  for (int run = 0; run <= kRuns; ++run) {
    const auto start = std::chrono::steady_clock::now();
    parallel_for(static_cast<int64_t>(kBytes), kMinParallelWork, [&](int64_t begin, int64_t end) {
      std::memcpy(destination.as<uint8_t>() + begin, source.as<uint8_t>() + begin, static_cast<size_t>(end - begin));
    });
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (run > 0) best_seconds = run == 1 ? seconds : std::min(best_seconds, seconds);  // the first run commits the memory
  }
  return 2.0 * static_cast<double>(kBytes) / best_seconds;
}

}  // namespace dsv4::cpu
