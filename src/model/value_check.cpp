#include "model/value_check.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/error.h"
#include "base/printable.h"

namespace dsv4 {
namespace {

// First element for which `bad` holds, or `count`. Whole blocks are tested without branches, so that the loop can use vector instructions.
template <typename T, typename Predicate>
size_t find_bad(const T* values, size_t count, Predicate bad) {
  constexpr size_t kBlock = 4096;
  for (size_t begin = 0; begin < count; begin += kBlock) {
    const size_t end = std::min(count, begin + kBlock);
    unsigned any = 0;
    for (size_t i = begin; i < end; ++i) any |= static_cast<unsigned>(bad(values[i]));
    if (any == 0) continue;
    for (size_t i = begin; i < end; ++i) {
      if (bad(values[i])) return i;
    }
  }
  return count;
}

// The index of an element along every axis.
Shape position(const Shape& shape, size_t element) {
  Shape index(shape.size());
  for (size_t axis = shape.size(); axis-- > 0;) {
    index[axis] = static_cast<int64_t>(element % static_cast<uint64_t>(shape[axis]));
    element /= static_cast<uint64_t>(shape[axis]);
  }
  return index;
}

size_t find_nan_scale(const uint8_t* codes, size_t count) {
  const void* found = count == 0 ? nullptr : std::memchr(codes, 0xff, count);
  return found ? static_cast<size_t>(static_cast<const uint8_t*>(found) - codes) : count;
}

}  // namespace

void check_values(std::string_view name, const TensorView& tensor, int num_experts) {
  const auto count = static_cast<size_t>(tensor.num_elements());
  const auto refuse = [&](size_t element, const std::string& what) {
    if (element < count) fail("{}: {} at {}", printable(name), what, shape_text(position(tensor.shape, element)));
  };
  switch (tensor.dtype) {
    case DType::kF8E8M0:
      refuse(find_nan_scale(tensor.as<uint8_t>(), count), "NaN (0xff)");
      break;
    case DType::kF8E4M3: {
      refuse(find_bad(tensor.as<uint8_t>(), count, [](uint8_t code) { return (code & 0x7f) == 0x7f; }), "NaN (0x7f or 0xff)");
      break;
    }
    case DType::kBf16: {
      const size_t bad = find_bad(tensor.as<Bf16>(), count, [](Bf16 x) { return (x.bits & 0x7f80) == 0x7f80; });
      if (bad < count) refuse(bad, fmt::format("{}, expected a finite value,", to_float(tensor.as<Bf16>()[bad])));
      break;
    }
    case DType::kF32: {
      const size_t bad =
          find_bad(tensor.as<float>(), count, [](float x) { return (std::bit_cast<uint32_t>(x) & 0x7f800000u) == 0x7f800000u; });
      if (bad < count) refuse(bad, fmt::format("{}, expected a finite value,", tensor.as<float>()[bad]));
      break;
    }
    case DType::kI64: {
      const size_t bad = find_bad(tensor.as<int64_t>(), count, [num_experts](int64_t id) { return id < 0 || id >= num_experts; });
      if (bad < count) refuse(bad, fmt::format("expert {}, expected 0 to {},", tensor.as<int64_t>()[bad], num_experts - 1));
      break;
    }
    default:
      break;
  }
}

}  // namespace dsv4
