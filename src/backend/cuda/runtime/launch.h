// The one place that launches kernels: it counts them per op, sets the launch attributes and checks the result.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "backend/cuda/runtime/check.h"

namespace dsv4::cuda {

// What a kernel's launch needs besides its arguments.
struct LaunchConfig {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;  // dynamic shared memory
  int cluster_size = 1;     // CTAs of a cluster along x
  bool dependent_launch =
      true;  // programmatic dependent launch: the kernel calls grid_dependency_wait() before it touches what others write
};

// Kernels launched, by op. Ops are few: a linear table.
class LaunchCounter {
 public:
  struct Entry {
    const char* op = nullptr;
    int64_t count = 0;
  };
  static constexpr int kMaxOps = 64;

  void add(const char* op);
  void clear();
  int64_t total() const;
  const Entry* begin() const { return entries_; }
  const Entry* end() const { return entries_ + num_entries_; }

 private:
  Entry entries_[kMaxOps];
  int num_entries_ = 0;
};

// Called around every launch of an op, where somebody wants to time them one by one.
class LaunchObserver {
 public:
  virtual ~LaunchObserver() = default;
  virtual void before_launch(const char* op) = 0;
  virtual void after_launch(const char* op) = 0;
};

// Counters with which CTAs of a launch wait for each other: of CTAs that share a row, and of those that are a team in attention.
inline constexpr int kMaxArrivals = 128, kMaxTeams = 128, kTeamCounters = 32;
inline constexpr int kNumArrivals = kMaxArrivals + kMaxTeams * kTeamCounters;

// What ops need to launch.
struct Context {
  cudaStream_t stream = nullptr;
  int num_sms = 0;
  uint32_t* arrivals = nullptr;  // kNumArrivals zeros in device memory; nullptr: CTAs wait for each other in clusters only
  LaunchCounter launches;
  LaunchObserver* observer = nullptr;
};

// Launches `kernel` on the context's stream. Throws Error with the op's name when the launch fails. A grid without CTAs is no launch.
template <typename... Parameters, typename... Arguments>
void launch(Context& context, const char* op, void (*kernel)(Parameters...), const LaunchConfig& config, const Arguments&... arguments) {
  if (config.grid.x == 0 || config.grid.y == 0 || config.grid.z == 0) return;
  if (config.shared_bytes > 48 * 1024) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(config.shared_bytes)),
          "cudaFuncSetAttribute", op);
  }
  if (config.cluster_size > 8) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1), "cudaFuncSetAttribute", op);
  }
  cudaLaunchAttribute attributes[2];
  cudaLaunchConfig_t launch_config{};
  launch_config.gridDim = config.grid;
  launch_config.blockDim = config.block;
  launch_config.dynamicSmemBytes = config.shared_bytes;
  launch_config.stream = context.stream;
  launch_config.attrs = attributes;
  if (config.cluster_size > 1) {
    attributes[launch_config.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[launch_config.numAttrs++].val.clusterDim = {static_cast<unsigned>(config.cluster_size), 1, 1};
  }
  if (config.dependent_launch) {
    attributes[launch_config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[launch_config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (context.observer != nullptr) context.observer->before_launch(op);
  check(cudaLaunchKernelEx(&launch_config, kernel, static_cast<Parameters>(arguments)...), "cudaLaunchKernelEx", op);
  context.launches.add(op);
  if (context.observer != nullptr) context.observer->after_launch(op);
}

}  // namespace dsv4::cuda
