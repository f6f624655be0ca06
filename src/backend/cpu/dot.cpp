#include "backend/cpu/dot.h"

#include "backend/cpu/leaf.h"

namespace dsv4::cpu {
namespace {

// Two sets of 16 lanes: one alone would wait for the latency of its own additions.
inline constexpr int kDotLanes = 32;

template <int kBytes>
DSV4_INLINE void dot_lanes_wide(const float* a, const float* b, int64_t count, float* lanes) {
  using V = Vec<kBytes>;
  constexpr int kRegisters = 2 * V::kRegisters;
  typename V::F32 sums[kRegisters] = {};
  for (int64_t i = 0; i < count; i += kDotLanes) {
    for (int r = 0; r < kRegisters; ++r) {
      typename V::F32 x, y;
      load(a + i + r * V::kWidth, x);
      load(b + i + r * V::kWidth, y);
      sums[r] += x * y;
    }
  }
  for (int r = 0; r < kRegisters; ++r) store(sums[r], lanes + r * V::kWidth);
}

DSV4_LEAF(dot_lanes, (const float* a, const float* b, int64_t count, float* lanes), (a, b, count, lanes))

}  // namespace

float dot(const float* a, const float* b, int64_t count) {
  const int64_t whole = count - count % kDotLanes;
  float lanes[kDotLanes];
  dot_lanes(a, b, whole, lanes);
  float sum = sum_16_lanes(lanes) + sum_16_lanes(lanes + 16);
  for (int64_t i = whole; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace dsv4::cpu
