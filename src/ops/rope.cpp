#include "ops/rope.h"

#include <algorithm>
#include <cmath>

namespace dsv4 {

void rope_frequencies(const RopeConfig& config, float* freqs) {
  const int dim = config.rope_dim;
  const int half = dim / 2;
  for (int i = 0; i < half; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(dim);
    freqs[i] = 1.0f / std::pow(config.base, exponent);
  }
  if (!config.yarn) return;

  // Where a rotation makes beta full turns over the original context; between the two the interpolation ramps up.
  const auto correction = [&](double beta) {
    constexpr double kTwoPi = 6.283185307179586476925286766559;
    return dim * std::log(config.original_max_position_embeddings / (beta * kTwoPi)) / (2.0 * std::log(static_cast<double>(config.base)));
  };
  const double low = std::max(std::floor(correction(config.beta_fast)), 0.0);
  double high = std::min(std::ceil(correction(config.beta_slow)), static_cast<double>(dim - 1));
  if (low == high) high += 0.001;
  for (int i = 0; i < half; ++i) {
    const float ramp = std::clamp((static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low), 0.0f, 1.0f);
    const float smooth = 1.0f - ramp;
    const float interpolated = freqs[i] / config.factor * (1.0f - smooth);
    freqs[i] = interpolated + freqs[i] * smooth;
  }
}

}  // namespace dsv4
