// Dot product of two fp32 rows with a fixed order of summation.
#pragma once

#include <cstdint>

namespace dsv4::cpu {

// Σ_i a[i]·b[i]: element i is added to lane i mod 32, the lanes are added in a fixed tree; the tail of count mod 32 elements comes last.
float dot(const float* a, const float* b, int64_t count);

}  // namespace dsv4::cpu
