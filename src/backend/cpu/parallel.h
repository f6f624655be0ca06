// The parallel loop of the CPU ops.
#pragma once

#include <cstdint>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace dsv4::cpu {

// Multiply-adds below which a loop stays on one thread: a few tens of microseconds. Starting threads takes a few microseconds on an idle
// machine, but on a busy one the join waits for whatever shares their cores, so short loops are not worth the risk.
inline constexpr int64_t kMinParallelWork = 1 << 21;

// Calls body(begin, end) on contiguous, disjoint ranges that cover [0, count): one range per thread, or one range in all when
// count · work_per_item (in multiply-adds) is small. How the range is cut depends on the number of threads, so no result may depend on it.
// `body` must not throw.
template <class Body>
void parallel_for(int64_t count, int64_t work_per_item, Body&& body) {
  if (count <= 0) return;
#ifdef _OPENMP
  if (count > 1 && work_per_item > kMinParallelWork / count && !omp_in_parallel()) {
#pragma omp parallel
    {
      const int64_t num_threads = omp_get_num_threads();
      const int64_t thread_idx = omp_get_thread_num();
      const int64_t begin = count * thread_idx / num_threads;
      const int64_t end = count * (thread_idx + 1) / num_threads;
      if (begin < end) body(begin, end);
    }
    return;
  }
#else
  static_cast<void>(work_per_item);
#endif
  body(int64_t{0}, count);
}

}  // namespace dsv4::cpu
