// How far products are from their exact values.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/dtype.h"

namespace dsv4::test {

// ‖out − exact‖/‖exact‖.
inline double relative_error(const std::vector<float>& out, const std::vector<double>& exact) {
  double error = 0.0, norm = 0.0;
  for (size_t i = 0; i < exact.size(); ++i) {
    error += (out[i] - exact[i]) * (out[i] - exact[i]);
    norm += exact[i] * exact[i];
  }
  return std::sqrt(error / std::max(norm, 1e-300));
}

// The same for bf16 outputs without the part that the rounding of the exact value alone would have: the error before the rounding.
inline double error_before_rounding(const std::vector<Bf16>& out, const std::vector<double>& exact) {
  double error = 0.0, rounding = 0.0, norm = 0.0;
  for (size_t i = 0; i < exact.size(); ++i) {
    const double value = to_float(out[i]);
    const double rounded = round_bf16(static_cast<float>(exact[i]));
    error += (value - exact[i]) * (value - exact[i]);
    rounding += (rounded - exact[i]) * (rounded - exact[i]);
    norm += exact[i] * exact[i];
  }
  return std::sqrt(std::max(error - rounding, 0.0) / std::max(norm, 1e-300));
}

}  // namespace dsv4::test
