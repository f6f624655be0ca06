// A read-only view of one tensor of a checkpoint: where its bytes are, and what they mean.
#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "base/dtype.h"
#include "base/error.h"

namespace dsv4 {

using Shape = std::vector<int64_t>;

// "[256,8]", the spelling of shapes in messages.
inline std::string shape_text(const Shape& shape) {
  return fmt::format("[{}]", fmt::join(shape, ","));
}

// True where T is how memory holds one element of `dtype`. FP8 codes, ue8m0 scales and FP4 pairs are bytes.
template <typename T>
constexpr bool holds_dtype(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return std::is_same_v<T, float>;
    case DType::kBf16:
      return std::is_same_v<T, Bf16>;
    case DType::kI32:
      return std::is_same_v<T, int32_t>;
    case DType::kI64:
      return std::is_same_v<T, int64_t>;
    case DType::kI8:
      return std::is_same_v<T, int8_t> || std::is_same_v<T, uint8_t>;
    default:
      return std::is_same_v<T, uint8_t>;
  }
}

// Row-major, contiguous. `data` is aligned for the dtype and belongs to whoever made the view.
struct TensorView {
  DType dtype = DType::kF32;
  Shape shape;
  const void* data = nullptr;
  size_t bytes = 0;

  int64_t num_elements() const { return static_cast<int64_t>(bytes / dtype_bytes(dtype)); }

  // The elements as T: float, Bf16, int32_t, int64_t, or uint8_t for F8_E4M3, F8_E8M0 and I8. Throws Error for another dtype.
  template <typename T>
  const T* as() const {
    require(holds_dtype<T>(dtype), "a tensor of dtype {} is read as another type", dtype_name(dtype));
    return static_cast<const T*>(data);
  }
};

}  // namespace dsv4
