// What the GPU tests share: one backend per program, device arrays whose outputs are poisoned, and a skip where there is no GPU.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "backend/cpu/backend.h"
#include "backend/cuda/runtime/backend.h"
#include "backend/cuda/runtime/device.h"
#include "ops/buffer.h"

namespace dsv4::test {

// Tests on a GPU; skipped with a message where there is none.
class GpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (backend_ptr() == nullptr) GTEST_SKIP() << "no CUDA device on this machine";
  }

  // The GPU, for the whole program (never freed: the driver goes first when a program ends).
  static Backend& gpu() { return *backend_ptr(); }

 private:
  static Backend* backend_ptr() {
    static Backend* const backend = cuda_devices().empty() ? nullptr : make_cuda_backend(0).release();
    return backend;
  }
};

// A vector in device memory.
template <typename T>
class DeviceArray {
 public:
  // A copy of `values`.
  DeviceArray(Backend& backend, const std::vector<T>& values) : backend_(&backend), buffer_(backend, values.size() * sizeof(T)) {
    backend.copy_from_host(buffer_.template as<void>(), values.data(), values.size() * sizeof(T));
    backend.synchronize();
    count_ = values.size();
  }
  // `count` elements of 0xff bytes (NaN in every floating-point format used here), for outputs.
  DeviceArray(Backend& backend, size_t count) : DeviceArray(backend, poison(count)) {}

  T* data() const { return buffer_.template as<T>(); }
  size_t size() const { return count_; }
  std::vector<T> host() const {
    std::vector<T> values(count_);
    backend_->copy_to_host(values.data(), buffer_.template as<void>(), count_ * sizeof(T));
    return values;
  }

 private:
  static std::vector<T> poison(size_t count) {
    std::vector<T> values(count);
    std::fill_n(reinterpret_cast<uint8_t*>(values.data()), count * sizeof(T), uint8_t{0xff});
    return values;
  }

  Backend* backend_;
  Buffer buffer_;
  size_t count_ = 0;
};

}  // namespace dsv4::test
