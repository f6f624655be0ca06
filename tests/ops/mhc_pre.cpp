#include "ops/mhc_pre.h"

#include <gtest/gtest.h>

#include "backend/cpu/ops.h"
#include "base/error.h"
#include "support/compare.h"
#include "support/random_data.h"

namespace dsv4 {
namespace {

constexpr double kEps = 1e-6;

struct Case {
  int num_tokens, hc, dim, iterations = 20;
  std::vector<Bf16> streams;
  std::vector<float> fn, base, scale;
  std::vector<Bf16> x;
  std::vector<float> post, comb;

  Case(test::Random& random, int tokens, int hc_mult, int hidden, float spread = 1.0f)
      : num_tokens(tokens),
        hc(hc_mult),
        dim(hidden),
        streams(test::random_bf16(random, static_cast<size_t>(tokens) * hc_mult * hidden)),
        fn(test::random_floats(random, static_cast<size_t>(hc_mult) * (2 + hc_mult) * hc_mult * hidden, 0.05f)),
        base(test::random_floats(random, hc_mult * (2 + hc_mult), spread)),
        scale{0.7f, 1.3f, 0.9f * spread},
        x(static_cast<size_t>(tokens) * hidden),
        post(static_cast<size_t>(tokens) * hc_mult),
        comb(static_cast<size_t>(tokens) * hc_mult * hc_mult) {}

  void run() {
    cpu::mhc_pre({streams.data(), fn.data(), base.data(), scale.data(), x.data(), post.data(), comb.data(), num_tokens, hc, dim, iterations,
                  1e-6f, 1e-6f});
  }
};

struct Expected {
  std::vector<double> x, x_slack, post, comb;
};

Expected reference(const Case& input, int token) {
  const int hc = input.hc, dim = input.dim, width = hc * dim;
  const Bf16* v = input.streams.data() + static_cast<size_t>(token) * width;
  double square_sum = 0.0;
  for (int k = 0; k < width; ++k) square_sum += static_cast<double>(to_float(v[k])) * to_float(v[k]);
  const double factor = 1.0 / std::sqrt(square_sum / width + kEps);
  std::vector<double> m(hc * (2 + hc), 0.0);
  for (size_t j = 0; j < m.size(); ++j) {
    for (int k = 0; k < width; ++k) m[j] += static_cast<double>(input.fn[j * width + k]) * to_float(v[k]);
    m[j] *= factor;
  }
  const auto sigmoid = [](double z) { return 1.0 / (1.0 + std::exp(-z)); };
  Expected expected;
  std::vector<double> pre(hc);
  for (int i = 0; i < hc; ++i) pre[i] = sigmoid(m[i] * input.scale[0] + input.base[i]) + kEps;
  for (int i = 0; i < hc; ++i) expected.post.push_back(2.0 * sigmoid(m[hc + i] * input.scale[1] + input.base[hc + i]));

  std::vector<std::vector<double>> a(hc, std::vector<double>(hc));
  for (int i = 0; i < hc; ++i) {
    double sum = 0.0;
    for (int j = 0; j < hc; ++j) sum += a[i][j] = std::exp(m[2 * hc + i * hc + j] * input.scale[2] + input.base[2 * hc + i * hc + j]);
    for (int j = 0; j < hc; ++j) a[i][j] = a[i][j] / sum + kEps;
  }
  for (int iteration = 0; iteration < input.iterations; ++iteration) {
    for (int i = 0; i < hc && iteration > 0; ++i) {
      double sum = kEps;
      for (int j = 0; j < hc; ++j) sum += a[i][j];
      for (int j = 0; j < hc; ++j) a[i][j] /= sum;
    }
    for (int j = 0; j < hc; ++j) {
      double sum = kEps;
      for (int i = 0; i < hc; ++i) sum += a[i][j];
      for (int i = 0; i < hc; ++i) a[i][j] /= sum;
    }
  }
  for (int i = 0; i < hc; ++i) expected.comb.insert(expected.comb.end(), a[i].begin(), a[i].end());

  for (int k = 0; k < dim; ++k) {
    double sum = 0.0, magnitude = 0.0;
    for (int h = 0; h < hc; ++h) {
      sum += pre[h] * to_float(v[h * dim + k]);
      magnitude += std::fabs(pre[h] * to_float(v[h * dim + k]));
    }
    expected.x.push_back(sum);
    expected.x_slack.push_back(4e-6 * magnitude);
  }
  return expected;
}

void expect_matches(const Case& actual) {
  for (int token = 0; token < actual.num_tokens; ++token) {
    const Expected expected = reference(actual, token);
    for (int i = 0; i < actual.hc; ++i) EXPECT_TRUE(test::close_to(actual.post[token * actual.hc + i], expected.post[i], 4e-6)) << i;
    for (int i = 0; i < actual.hc * actual.hc; ++i) {
      const double slack = 2e-5 * expected.comb[i] + 1e-9;
      EXPECT_TRUE(test::close_to(actual.comb[token * actual.hc * actual.hc + i], expected.comb[i], slack)) << i;
    }
    for (int k = 0; k < actual.dim; ++k) {
      EXPECT_TRUE(test::bf16_rounds(actual.x[token * actual.dim + k], expected.x[k], expected.x_slack[k])) << k;
    }
  }
}

TEST(MhcPre, MatchesDouble) {
  test::Random random(1);
  for (const auto& [hc, dim] : {std::pair{4, 256}, {4, 100}, {1, 64}, {3, 128}, {8, 96}}) {
    Case input(random, 3, hc, dim);
    input.run();
    expect_matches(input);
  }
}

TEST(MhcPre, FirstPassIsASoftmaxPlusEps) {
  // Far apart logits: most of the softmax vanishes, and what is left there is hc_eps.
  test::Random random(2);
  for (const int iterations : {1, 2, 20}) {
    Case input(random, 4, 4, 64, 60.0f);
    input.iterations = iterations;
    input.run();
    expect_matches(input);
  }
}

TEST(MhcPre, EndsOnColumns) {
  test::Random random(3);
  Case input(random, 1, 4, 128, 4.0f);
  input.iterations = 1;
  input.run();
  bool rows_differ = false;
  for (int i = 0; i < 4; ++i) {
    double column = 0.0, row = 0.0;
    for (int j = 0; j < 4; ++j) {
      column += input.comb[j * 4 + i];
      row += input.comb[i * 4 + j];
    }
    EXPECT_TRUE(test::close_to(column, 1.0, 1e-4));
    rows_differ = rows_differ || std::fabs(row - 1.0) > 1e-2;
  }
  EXPECT_TRUE(rows_differ);
}

TEST(MhcPre, ZeroStreams) {
  test::Random random(4);
  Case input(random, 1, 4, 64);
  input.streams.assign(input.streams.size(), to_bf16(0.0f));
  input.run();
  expect_matches(input);
  for (const Bf16 value : input.x) EXPECT_EQ(value.bits, 0);
}

TEST(MhcPre, TokensAloneGiveTheSameBytes) {
  test::Random random(5);
  Case together(random, 33, 4, 256);
  together.run();
  for (int token = 0; token < together.num_tokens; ++token) {
    Case alone = together;
    alone.num_tokens = 1;
    alone.streams.assign(together.streams.begin() + token * 1024, together.streams.begin() + (token + 1) * 1024);
    alone.run();
    EXPECT_TRUE(test::same_bytes(std::span<const Bf16>(alone.x).first(256), std::span<const Bf16>(together.x).subspan(token * 256, 256)));
    EXPECT_TRUE(
        test::same_bytes(std::span<const float>(alone.comb).first(16), std::span<const float>(together.comb).subspan(token * 16, 16)));
    EXPECT_TRUE(test::same_bytes(std::span<const float>(alone.post).first(4), std::span<const float>(together.post).subspan(token * 4, 4)));
  }
}

TEST(MhcPre, RefusesTooManyStreams) {
  test::Random random(6);
  Case input(random, 1, 9, 8);
  EXPECT_THROW(input.run(), Error);
}

}  // namespace
}  // namespace dsv4
