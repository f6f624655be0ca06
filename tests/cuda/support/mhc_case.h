// Inputs of the mHC ops and of what surrounds them, and runs of a group of them on a backend.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "ops/groups.h"
#include "support/compare.h"
#include "support/gpu.h"
#include "support/random_data.h"

namespace dsv4::test {

// Which parts of a boundary run.
struct BoundaryParts {
  bool combine = true;
  bool post = true;
  bool pre = true;
  bool norm = true;      // with pre
  bool quantize = true;  // with norm
};

struct BoundaryOutputs {
  std::vector<Bf16> y, streams, x, u;
  std::vector<float> post, comb;
  std::vector<uint8_t> codes, scales;
  std::vector<Bf16> values;  // of the codes
};

// Random inputs of a boundary between two sub-layers.
struct BoundaryCase {
  BoundaryCase(int num_tokens_, int hidden_size_, int num_selected_ = 6, uint64_t seed = 1, float mix_stddev = 2.0f)
      : num_tokens(num_tokens_), hidden_size(hidden_size_), num_selected(num_selected_) {
    Random random(seed);
    const size_t tokens = num_tokens, dim = hidden_size;
    routed = random_bf16(random, tokens * num_selected * dim);
    for (size_t t = 0; t < tokens; ++t) {  // distinct experts in random order
      std::vector<int32_t> ids(256);
      for (int i = 0; i < 256; ++i) ids[i] = i;
      for (int i = 0; i < num_selected; ++i) std::swap(ids[i], ids[i + random.below(256 - i)]);
      experts.insert(experts.end(), ids.begin(), ids.begin() + num_selected);
    }
    shared = random_bf16(random, tokens * dim);
    y = random_bf16(random, tokens * dim);
    streams = random_bf16(random, tokens * 4 * dim);
    post = random_floats(random, tokens * 4);
    comb = random_floats(random, tokens * 16, 0.3f);
    fn = random_floats(random, 24 * 4 * dim, mix_stddev / (2.0f * std::sqrt(static_cast<float>(dim))));
    base = random_floats(random, 24);
    scale = {0.7f, 1.1f, 0.9f};
    norm_weight = random_bf16(random, dim);
  }

  // `count` tokens from `begin` on.
  BoundaryCase rows(int begin, int count) const {
    BoundaryCase part = *this;
    part.num_tokens = count;
    const auto cut = [&](auto& values, size_t width) {
      values.erase(values.begin() + static_cast<int64_t>((begin + count) * width), values.end());
      values.erase(values.begin(), values.begin() + static_cast<int64_t>(begin * width));
    };
    const size_t dim = hidden_size;
    cut(part.routed, num_selected * dim);
    cut(part.experts, num_selected);
    cut(part.shared, dim);
    cut(part.y, dim);
    cut(part.streams, 4 * dim);
    cut(part.post, 4);
    cut(part.comb, 16);
    return part;
  }

  BoundaryOutputs run(Backend& backend, const BoundaryParts& parts) const {
    const size_t tokens = num_tokens, dim = hidden_size;
    const DeviceArray<Bf16> device_routed(backend, routed), device_shared(backend, shared), device_weight(backend, norm_weight);
    const DeviceArray<Bf16> device_streams(backend, streams);
    const DeviceArray<int32_t> device_experts(backend, experts);
    const DeviceArray<Bf16> device_y = parts.combine ? DeviceArray<Bf16>(backend, tokens * dim) : DeviceArray<Bf16>(backend, y);
    const DeviceArray<float> device_post(backend, post), device_comb(backend, comb), device_fn(backend, fn), device_base(backend, base),
        device_scale(backend, scale);
    const DeviceArray<Bf16> x(backend, tokens * dim), u(backend, tokens * dim), values(backend, tokens * dim);
    const DeviceArray<float> next_post(backend, tokens * 4), next_comb(backend, tokens * 16);
    const DeviceArray<uint8_t> codes(backend, tokens * dim), scales(backend, tokens * (dim / 128));

    const CombineParams combine{device_routed.data(), device_experts.data(), device_shared.data(), device_y.data(),
                                num_tokens,           num_selected,          hidden_size};
    const MhcPostParams mhc_post{device_y.data(), device_post.data(), device_comb.data(), device_streams.data(), num_tokens, 4,
                                 hidden_size};
    const MhcPreParams mhc_pre{device_streams.data(),
                               device_fn.data(),
                               device_base.data(),
                               device_scale.data(),
                               x.data(),
                               next_post.data(),
                               next_comb.data(),
                               num_tokens,
                               4,
                               hidden_size,
                               sinkhorn_iters,
                               1e-6f,
                               1e-6f};
    const RmsNormParams norm{x.data(), device_weight.data(), u.data(), num_tokens, hidden_size, 1e-6f};
    const QuantizeParams quantize{u.data(), codes.data(), scales.data(), num_tokens, hidden_size, values.data()};
    if (parts.pre && !parts.norm) {  // not a group: the norm belongs to it
      if (parts.combine) backend.combine(combine);
      if (parts.post) backend.mhc_post(mhc_post);
      backend.mhc_pre(mhc_pre);
    } else {
      backend.boundary({parts.combine ? &combine : nullptr, parts.post ? &mhc_post : nullptr, parts.pre ? &mhc_pre : nullptr,
                        parts.pre ? &norm : nullptr, parts.pre ? &quantize : nullptr});
    }
    return {device_y.host(),  device_streams.host(), x.host(),      u.host(),     next_post.host(),
            next_comb.host(), codes.host(),          scales.host(), values.host()};
  }

  int num_tokens;
  int hidden_size;
  int num_selected;
  int sinkhorn_iters = 20;
  std::vector<Bf16> routed, shared, y, streams, norm_weight;
  std::vector<int32_t> experts;
  std::vector<float> post, comb, fn, base, scale;
};

// Passes if bf16 arrays agree up to one unit in the last place in at most `share` of the elements, with a cosine of 0.999999.
inline ::testing::AssertionResult nearly_same_bf16(const std::vector<Bf16>& actual, const std::vector<Bf16>& expected,
                                                   double share = 0.005) {
  if (actual.size() != expected.size()) return ::testing::AssertionFailure() << actual.size() << " elements of " << expected.size();
  const auto ordinal = [](Bf16 value) { return (value.bits & 0x8000) != 0 ? -(value.bits & 0x7fff) : value.bits & 0x7fff; };
  size_t num_different = 0;
  double dot = 0.0, actual_square = 0.0, expected_square = 0.0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double a = to_float(actual[i]), e = to_float(expected[i]);
    if (!std::isfinite(a)) return ::testing::AssertionFailure() << "element " << i << " is " << a << ", expected " << e;
    // An ulp of x can be two of u = x·factor·weight. Where terms cancel, an ulp of the sum is less than an ulp of a term.
    if (std::abs(ordinal(actual[i]) - ordinal(expected[i])) > 2 && std::fabs(a - e) > 1e-5) {
      return ::testing::AssertionFailure() << "element " << i << " is " << a << ", expected " << e;
    }
    if (actual[i].bits != expected[i].bits) ++num_different;
    dot += a * e;
    actual_square += a * a;
    expected_square += e * e;
  }
  // A few elements may differ in small arrays.
  if (static_cast<double>(num_different) > share * static_cast<double>(actual.size()) + 2.0) {
    return ::testing::AssertionFailure() << num_different << " of " << actual.size() << " elements differ";
  }
  if (expected_square > 0.0 && dot < 0.999999 * std::sqrt(actual_square * expected_square)) {
    return ::testing::AssertionFailure() << "cosine " << dot / std::sqrt(actual_square * expected_square);
  }
  return ::testing::AssertionSuccess();
}

inline ::testing::AssertionResult nearly_same_floats(const std::vector<float>& actual, const std::vector<float>& expected, double relative,
                                                     double absolute) {
  if (actual.size() != expected.size()) return ::testing::AssertionFailure() << actual.size() << " elements of " << expected.size();
  for (size_t i = 0; i < actual.size(); ++i) {
    const auto close = close_to(actual[i], expected[i], relative * std::fabs(expected[i]) + absolute);
    if (!close) return ::testing::AssertionFailure() << "element " << i << ": " << close.message();
  }
  return ::testing::AssertionSuccess();
}

// Codes and scales must be exactly those of u itself, which is compared apart.
inline ::testing::AssertionResult quantizes(const std::vector<Bf16>& u, const std::vector<uint8_t>& codes,
                                            const std::vector<uint8_t>& scales) {
  for (size_t block = 0; block < scales.size(); ++block) {
    float amax = 0.0f;
    for (size_t i = 128 * block; i < 128 * (block + 1); ++i) amax = std::max(amax, std::fabs(to_float(u[i])));
    const uint8_t scale = fp8_block_scale(amax);
    if (scales[block] != scale) {
      return ::testing::AssertionFailure() << "scale " << block << " is " << int{scales[block]} << ", expected " << int{scale};
    }
    for (size_t i = 128 * block; i < 128 * (block + 1); ++i) {
      const uint8_t code = float_to_e4m3(to_float(u[i]) / ue8m0_to_float(scale));
      if (codes[i] != code) return ::testing::AssertionFailure() << "code " << i << " is " << int{codes[i]} << ", expected " << int{code};
    }
  }
  return ::testing::AssertionSuccess();
}

}  // namespace dsv4::test
