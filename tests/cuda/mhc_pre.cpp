// The boundary of two sub-layers with every choice of its parts; mhc_pre alone is one of them.
#include "ops/mhc_pre.h"

#include "base/error.h"
#include "support/matrices.h"
#include "support/mhc_case.h"

namespace dsv4 {
namespace {

using test::BoundaryCase;
using test::BoundaryOutputs;
using test::BoundaryParts;

class MhcPreGpu : public test::GpuTest {
 protected:
  static void expect_matches_cpu(const BoundaryCase& input, const BoundaryParts& parts) {
    SCOPED_TRACE(::testing::Message() << input.num_tokens << " tokens of " << input.hidden_size << ", combine " << parts.combine << " post "
                                      << parts.post << " pre " << parts.pre << " norm " << parts.norm);
    const BoundaryOutputs actual = input.run(gpu(), parts);
    const std::unique_ptr<Backend> cpu = make_cpu_backend();
    const BoundaryOutputs expected = input.run(*cpu, parts);
    EXPECT_TRUE(test::same_bytes(actual.streams, expected.streams));
    if (parts.combine && !parts.post) {
      EXPECT_TRUE(test::same_bytes(actual.y, expected.y));
    }
    if (!parts.pre) return;
    // m is within 1e-5; post is at most 2·m's error, comb relative to its own size.
    EXPECT_TRUE(test::nearly_same_floats(actual.post, expected.post, 1e-5, 2e-5));
    EXPECT_TRUE(test::nearly_same_floats(actual.comb, expected.comb, 1e-4, 1e-7));
    if (!parts.norm) {
      EXPECT_TRUE(test::nearly_same_bf16(actual.x, expected.x));
      return;
    }
    EXPECT_TRUE(test::nearly_same_bf16(actual.u, expected.u));
    EXPECT_TRUE(test::quantizes(actual.u, actual.codes, actual.scales));
    EXPECT_TRUE(test::same_bytes(actual.values, test::fp8_values(actual.codes, actual.scales, input.hidden_size)));
    size_t num_different = 0;
    for (size_t i = 0; i < actual.scales.size(); ++i) num_different += actual.scales[i] == expected.scales[i] ? 0 : 1;
    EXPECT_LE(num_different, actual.scales.size() / 100 + 1);
  }
};

TEST_F(MhcPreGpu, EveryChoiceOfParts) {
  const BoundaryCase input(5, 512);
  for (int choice = 0; choice < 12; ++choice) {
    BoundaryParts parts;
    parts.combine = (choice & 1) != 0;
    parts.post = (choice & 2) != 0;
    parts.pre = choice / 4 != 0;
    parts.norm = choice / 4 == 2;
    if (!parts.combine && !parts.post && !parts.pre) continue;
    expect_matches_cpu(input, parts);
  }
}

TEST_F(MhcPreGpu, HiddenSizes) {
  // Clusters of 1, 2, 4, 8 and 16; one, two, three, five and seven blocks of columns per CTA.
  for (const int hidden_size : {128, 256, 384, 512, 1024, 2048, 4096, 5120, 6144, 7168})
    expect_matches_cpu(BoundaryCase(3, hidden_size), {});
}

TEST_F(MhcPreGpu, TokenCounts) {
  for (const int num_tokens : {1, 2, 7, 8, 9, 16, 33, 150}) expect_matches_cpu(BoundaryCase(num_tokens, 256), {});
  for (const int num_tokens : {1, 64, 141}) expect_matches_cpu(BoundaryCase(num_tokens, 4096, 6, 2), {});
  BoundaryParts without_norm;  // several tiles per cluster, as above, with one cluster barrier per tile
  without_norm.norm = false;
  expect_matches_cpu(BoundaryCase(141, 4096, 6, 2), without_norm);
}

TEST_F(MhcPreGpu, LongRowsOfOneCta) {
  expect_matches_cpu(BoundaryCase(3, 55 * 128), {});
}

TEST_F(MhcPreGpu, NoTokens) {
  const BoundaryOutputs outputs = BoundaryCase(0, 256).run(gpu(), {});
  EXPECT_TRUE(outputs.u.empty());
}

TEST_F(MhcPreGpu, FewIterationsAndFarApartLogits) {
  for (const int iterations : {1, 2, 20}) {
    BoundaryCase input(4, 256, 6, 3, 30.0f);
    input.sinkhorn_iters = iterations;
    const BoundaryOutputs actual = input.run(gpu(), {});
    const std::unique_ptr<Backend> cpu = make_cpu_backend();
    const BoundaryOutputs expected = input.run(*cpu, {});
    // Logits of up to 100 are known to 1e-5 of their size, their exponentials to 1e-3.
    EXPECT_TRUE(test::nearly_same_floats(actual.comb, expected.comb, 2e-3, 1e-6)) << iterations;
  }
}

TEST_F(MhcPreGpu, ZeroStreams) {
  BoundaryCase input(2, 256);
  std::fill(input.streams.begin(), input.streams.end(), Bf16{0});
  BoundaryParts parts;
  parts.combine = parts.post = false;
  expect_matches_cpu(input, parts);
  for (const Bf16 value : input.run(gpu(), parts).u) EXPECT_EQ(value.bits & 0x7fff, 0);
}

TEST_F(MhcPreGpu, PaddingSlotsAddNothing) {
  BoundaryCase input(3, 256);
  std::fill_n(input.experts.begin() + 6, 6, -1);
  input.experts[2] = -1;
  expect_matches_cpu(input, {});
  // What stands in the rows of such slots does not matter.
  std::fill_n(input.routed.begin() + 6 * 256, 6 * 256, Bf16{0x7fc0});
  for (const Bf16 value : input.run(gpu(), {}).u) EXPECT_TRUE(std::isfinite(to_float(value)));
}

TEST_F(MhcPreGpu, TokensAloneGiveTheSameBytes) {
  for (const auto& [num_tokens, hidden_size] : {std::pair{300, 256}, {140, 4096}, {40, 7168}}) {
    const BoundaryCase input(num_tokens, hidden_size, 6, 4);
    const BoundaryOutputs together = input.run(gpu(), {});
    const auto expect_same_row = [&](const auto& alone, const auto& all, int token, size_t width) {
      EXPECT_TRUE(test::same_bytes(std::span(alone), std::span(all).subspan(token * width, width))) << token;
    };
    for (const int token : {0, 1, 7, 8, 15, 16, 17, num_tokens - 1}) {
      const BoundaryOutputs alone = input.rows(token, 1).run(gpu(), {});
      expect_same_row(alone.streams, together.streams, token, 4 * hidden_size);
      expect_same_row(alone.u, together.u, token, hidden_size);
      expect_same_row(alone.post, together.post, token, 4);
      expect_same_row(alone.comb, together.comb, token, 16);
      expect_same_row(alone.codes, together.codes, token, hidden_size);
      expect_same_row(alone.scales, together.scales, token, hidden_size / 128);
    }
  }
}

TEST_F(MhcPreGpu, DotProductsAreAsGoodAsFp32) {
  // One mix at a time becomes visible in post: post = 2·sigmoid(m·scale + base), inverted in double.
  BoundaryCase input(6, 4096, 6, 5, 1.0f);
  std::fill(input.base.begin(), input.base.end(), 0.0f);
  input.scale = {1.0f, 1.0f, 1.0f};
  BoundaryParts parts;
  parts.combine = parts.post = false;
  const BoundaryOutputs outputs = input.run(gpu(), parts);
  for (int token = 0; token < input.num_tokens; ++token) {
    const Bf16* v = input.streams.data() + static_cast<size_t>(token) * 4 * 4096;
    double square = 0.0;
    for (int k = 0; k < 4 * 4096; ++k) square += static_cast<double>(to_float(v[k])) * to_float(v[k]);
    for (int i = 0; i < 4; ++i) {
      const float* fn = input.fn.data() + static_cast<size_t>(4 + i) * 4 * 4096;
      double dot = 0.0;
      for (int k = 0; k < 4 * 4096; ++k) dot += static_cast<double>(fn[k]) * to_float(v[k]);
      const double m = dot / std::sqrt(square / (4 * 4096) + 1e-6);
      // m is of order 1: 1e-5 of its terms' norm, through a slope of at most 1/2, and the rounding of post.
      EXPECT_TRUE(test::close_to(outputs.post[token * 4 + i], 2.0 / (1.0 + std::exp(-m)), 6e-6)) << token << " " << i;
    }
  }
}

TEST_F(MhcPreGpu, RefusesWhatItDoesNotSupport) {
  EXPECT_THROW(BoundaryCase(1, 7296).run(gpu(), {}), Error);
  const BoundaryCase input(1, 256);
  const test::DeviceArray<Bf16> streams(gpu(), input.streams);
  EXPECT_THROW(gpu().mhc_pre({streams.data(), nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, 1, 3, 256, 20, 1e-6f, 1e-6f}), Error);
}

}  // namespace
}  // namespace dsv4
