#include "backend/cpu/rope.h"

#include <cmath>

#include "base/dtype.h"

namespace dsv4::cpu {

Rotation make_rotation(int32_t position, const float* freqs, int rope_dim) {
  Rotation rotation;
  for (int i = 0; i < rope_dim / 2; ++i) {
    const float angle = static_cast<float>(position) * freqs[i];
    rotation.cos[i] = std::cos(angle);
    rotation.sin[i] = std::sin(angle);
  }
  return rotation;
}

void rotate(const Rotation& rotation, int rope_dim, float* x) {
  for (int i = 0; i < rope_dim / 2; ++i) {
    const float a = x[2 * i];
    const float b = x[2 * i + 1];
    x[2 * i] = round_bf16(a * rotation.cos[i] - b * rotation.sin[i]);
    x[2 * i + 1] = round_bf16(a * rotation.sin[i] + b * rotation.cos[i]);
  }
}

void rotate_inverse_exact(const Rotation& rotation, int rope_dim, float* x) {
  for (int i = 0; i < rope_dim / 2; ++i) {
    const float a = x[2 * i];
    const float b = x[2 * i + 1];
    x[2 * i] = a * rotation.cos[i] + b * rotation.sin[i];
    x[2 * i + 1] = b * rotation.cos[i] - a * rotation.sin[i];
  }
}

void rotate_inverse(const Rotation& rotation, int rope_dim, float* x) {
  rotate_inverse_exact(rotation, rope_dim, x);
  for (int i = 0; i < rope_dim; ++i) x[i] = round_bf16(x[i]);
}

}  // namespace dsv4::cpu
