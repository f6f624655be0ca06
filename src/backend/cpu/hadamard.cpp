#include "backend/cpu/hadamard.h"

#include <cmath>

#include "base/dtype.h"

namespace dsv4::cpu {

void hadamard(float* x, int dim) {
  for (int half = 1; half < dim; half *= 2) {
    for (int begin = 0; begin < dim; begin += 2 * half) {
      float* low = x + begin;
      float* high = low + half;
      for (int i = 0; i < half; ++i) {
        const float sum = low[i] + high[i];
        const float difference = low[i] - high[i];
        low[i] = sum;
        high[i] = difference;
      }
    }
  }
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(dim)));
  for (int i = 0; i < dim; ++i) x[i] = round_bf16(x[i] * scale);
}

}  // namespace dsv4::cpu
