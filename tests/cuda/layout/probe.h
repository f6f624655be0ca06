// What the layout programs share: device memory, and how the accumulator of a wgmma is written down. They find out which byte of shared
// memory the hardware reads for an element: every element of a tile holds its own index, the other operand is a piece of the identity, and
// the result names the index.
#pragma once

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
#include <vector>

#include "backend/cuda/runtime/check.h"

namespace dsv4::cuda::layout {

inline constexpr int kThreads = 128;  // a warpgroup
inline constexpr int kRows = 64;      // of A and D

inline bool has_device() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}

// A vector in device memory.
template <typename T>
class Memory {
 public:
  explicit Memory(const std::vector<T>& values) : count_(values.size()) {
    check(cudaMalloc(&data_, count_ * sizeof(T)), "cudaMalloc", "layout test");
    check(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy", "layout test");
  }
  // `count` elements of 0xff bytes, for results.
  explicit Memory(size_t count) : count_(count) {
    check(cudaMalloc(&data_, count_ * sizeof(T)), "cudaMalloc", "layout test");
    check(cudaMemset(data_, 0xff, count_ * sizeof(T)), "cudaMemset", "layout test");
  }
  ~Memory() { cudaFree(data_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  T* data() const { return data_; }
  // Waits for the kernels before it.
  std::vector<T> host() const {
    std::vector<T> values(count_);
    check(cudaGetLastError(), "kernel launch", "layout test");
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize", "layout test");
    check(cudaMemcpy(values.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost), "cudaMemcpy", "layout test");
    return values;
  }

 private:
  T* data_ = nullptr;
  size_t count_ = 0;
};

// The accumulator map of ptx/wgmma.h: row and column of register d[i] of a thread.
inline int accumulator_row(int thread, int i) {
  return thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8;
}
inline int accumulator_column(int thread, int i) {
  return i / 4 * 8 + thread % 4 * 2 + i % 2;
}

// Registers [thread, N/2] → D [64, N] by that map.
inline std::vector<float> accumulator_matrix(const std::vector<float>& registers, int n) {
  std::vector<float> d(static_cast<size_t>(kRows) * n);
  for (int thread = 0; thread < kThreads; ++thread) {
    for (int i = 0; i < n / 2; ++i) {
      d[static_cast<size_t>(accumulator_row(thread, i)) * n + accumulator_column(thread, i)] =
          registers[static_cast<size_t>(thread) * (n / 2) + i];
    }
  }
  return d;
}

}  // namespace dsv4::cuda::layout
