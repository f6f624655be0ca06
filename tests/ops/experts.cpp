#include "ops/experts.h"

#include <gtest/gtest.h>

#include <array>
#include <deque>
#include <vector>

#include "backend/cpu/ops.h"
#include "base/error.h"
#include "support/compare.h"
#include "support/matrices.h"

namespace dsv4 {
namespace {

constexpr float kLimit = 10.0f;

// The experts' weights in one format, and a random routing of num_tokens tokens.
template <class Matrix>
struct Case {
  int num_tokens, num_selected, num_experts, hidden_size, intermediate_size;
  test::Fp8Rows x;
  std::deque<Matrix> w1, w2, w3;
  std::vector<ExpertMatrix> w1_view, w2_view, w3_view;
  std::vector<int32_t> experts;
  std::vector<float> weights;

  Case(test::Random& random, int tokens, int selected, int count, int hidden, int intermediate)
      : num_tokens(tokens),
        num_selected(selected),
        num_experts(count),
        hidden_size(hidden),
        intermediate_size(intermediate),
        x(random, tokens, hidden) {
    // Activations near 1 and scales around 2^-8 give gates on both sides of the clamp.
    for (auto& scale : x.scales) scale = static_cast<uint8_t>(127 - 6 - random.below(2));
    for (int e = 0; e < count; ++e) {
      w1_view.push_back(w1.emplace_back(random, intermediate, hidden).expert());
      w2_view.push_back(w2.emplace_back(random, hidden, intermediate).expert());
      w3_view.push_back(w3.emplace_back(random, intermediate, hidden).expert());
    }
    for (int t = 0; t < tokens; ++t) {
      std::vector<int32_t> order(count);
      for (int e = 0; e < count; ++e) order[e] = e;
      for (int slot = 0; slot < selected; ++slot) {
        std::swap(order[slot], order[slot + random.below(count - slot)]);
        experts.push_back(order[slot]);
        weights.push_back(random.uniform(0.05f, 1.0f));
      }
    }
  }

  std::vector<Bf16> run(ExpertFormat format, int first_token, int count) const {
    std::vector<Bf16> out(static_cast<size_t>(count) * num_selected * hidden_size, Bf16{0x7fc0});
    const size_t pair = static_cast<size_t>(first_token) * num_selected;
    cpu::experts({x.view(first_token), experts.data() + pair, weights.data() + pair, w1_view.data(), w2_view.data(), w3_view.data(), format,
                  out.data(), count, num_selected, num_experts, hidden_size, intermediate_size, kLimit});
    return out;
  }
};

template <class Matrix>
void scale_weights(Case<Matrix>& data, int exponent) {
  for (auto* list : {&data.w1, &data.w2, &data.w3}) {
    for (Matrix& matrix : *list) {
      for (uint8_t& scale : matrix.scales) scale = static_cast<uint8_t>(scale + exponent);
    }
  }
}

// Spec 2.11 step 4 for one (token, slot) in double, rounding where it says. h is recomputed from the exact products, so its roundings may
// differ by a unit where a product stands at a tie: `h_slack` bounds what that does to an output.
template <class Matrix>
void expect_pair(const Case<Matrix>& data, const std::vector<Bf16>& out, int t, int slot, int* clamped) {
  const int pair = t * data.num_selected + slot;
  const int e = data.experts[pair];
  std::vector<double> h(data.intermediate_size);
  for (int i = 0; i < data.intermediate_size; ++i) {
    double gate = round_bf16(static_cast<float>(test::dot_rows(data.x, t, data.w1[e], i).value));
    double up = round_bf16(static_cast<float>(test::dot_rows(data.x, t, data.w3[e], i).value));
    if (gate > kLimit || std::fabs(up) > kLimit) ++*clamped;
    gate = std::min<double>(gate, kLimit);
    up = std::clamp<double>(up, -kLimit, kLimit);
    h[i] = round_bf16(static_cast<float>(data.weights[pair] * (gate / (1.0 + std::exp(-gate))) * up));
  }
  for (int begin = 0; begin < data.intermediate_size; begin += 128) {
    const int end = std::min(begin + 128, data.intermediate_size);
    double amax = 0.0;
    for (int i = begin; i < end; ++i) amax = std::max(amax, std::fabs(h[i]));
    const double scale = ue8m0_to_float(fp8_block_scale(static_cast<float>(amax)));
    for (int i = begin; i < end; ++i) h[i] = scale * e4m3_to_float(float_to_e4m3(static_cast<float>(h[i] / scale)));
  }
  for (int o = 0; o < data.hidden_size; ++o) {
    const test::Dot dot =
        test::dot([&](int, int k) { return h[k]; }, 0, [&](int row, int k) { return data.w2[e].at(row, k); }, o, data.intermediate_size);
    // Two codes of h one e4m3 step (1/8) off, at most.
    double largest = 0.0;
    for (int k = 0; k < data.intermediate_size; ++k) largest = std::max(largest, std::fabs(h[k] * data.w2[e].at(o, k)));
    const double h_slack = largest / 4;
    ASSERT_TRUE(test::bf16_rounds(out[static_cast<size_t>(pair) * data.hidden_size + o], dot.value, dot.slack + h_slack))
        << "pair " << pair << " output " << o;
  }
}

template <class Matrix>
void expect_formula(ExpertFormat format, int tokens, int selected, int count, int hidden, int intermediate, int scale_exponent) {
  test::Random random(static_cast<uint64_t>(tokens * 131 + hidden));
  Case<Matrix> data(random, tokens, selected, count, hidden, intermediate);
  scale_weights(data, scale_exponent);
  const auto out = data.run(format, 0, tokens);
  int clamped = 0;
  for (int t = 0; t < tokens; ++t) {
    for (int slot = 0; slot < selected; ++slot) expect_pair(data, out, t, slot, &clamped);
  }
  EXPECT_GT(clamped, 0) << "the data never reaches the clamps";
  EXPECT_LT(clamped, tokens * selected * intermediate) << "the data is always clamped";
}

TEST(Experts, Fp4MatchesTheFormula) {
  expect_formula<test::Fp4Matrix>(ExpertFormat::kFp4, 1, 6, 16, 256, 128, -2);
  expect_formula<test::Fp4Matrix>(ExpertFormat::kFp4, 9, 2, 5, 160, 96, -2);
}

TEST(Experts, Fp8MatchesTheFormula) {
  expect_formula<test::Fp8Matrix>(ExpertFormat::kFp8, 1, 3, 4, 256, 128, -5);
  expect_formula<test::Fp8Matrix>(ExpertFormat::kFp8, 7, 2, 3, 200, 130, -5);
}

// One input column, one intermediate row and one output row with weight 1: the whole chain can be followed by hand.
TEST(Experts, ClampsAndRoundingsByHand) {
  test::Random random(61);
  Case<test::Fp8Matrix> data(random, 1, 1, 1, 1, 1);
  data.x.codes = {float_to_e4m3(1.0f)};
  data.x.scales = {127};
  const auto output = [&](float gate, float up, float weight) {
    data.w1[0].codes = {float_to_e4m3(gate)};
    data.w3[0].codes = {float_to_e4m3(up)};
    data.w2[0].codes = {float_to_e4m3(1.0f)};
    data.w1[0].scales = data.w2[0].scales = data.w3[0].scales = {127};
    data.w1_view = {data.w1[0].expert()};
    data.w2_view = {data.w2[0].expert()};
    data.w3_view = {data.w3[0].expert()};
    data.weights = {weight};
    return to_float(data.run(ExpertFormat::kFp8, 0, 1)[0]);
  };
  const auto quantised = [](double h) {
    const float rounded = round_bf16(static_cast<float>(h));
    const float scale = ue8m0_to_float(fp8_block_scale(std::fabs(rounded)));
    return e4m3_to_float(float_to_e4m3(rounded / scale)) * scale;
  };
  const auto silu = [](double x) { return x / (1.0 + std::exp(-x)); };
  EXPECT_EQ(output(2.0f, 3.0f, 0.5f), quantised(0.5 * silu(2.0) * 3.0));
  EXPECT_EQ(output(20.0f, 3.0f, 1.0f), quantised(silu(10.0) * 3.0));    // gate from above
  EXPECT_EQ(output(-20.0f, 3.0f, 1.0f), quantised(silu(-20.0) * 3.0));  // gate not from below
  EXPECT_EQ(output(2.0f, 32.0f, 1.0f), quantised(silu(2.0) * 10.0));    // up from above
  EXPECT_EQ(output(2.0f, -32.0f, 1.0f), quantised(silu(2.0) * -10.0));  // up from below
  EXPECT_EQ(output(0.0f, 3.0f, 1.0f), 0.0f);
  // The weight acts before the rounding of h: 0.3·silu(1)·1.
  EXPECT_EQ(output(1.0f, 1.0f, 0.3f), quantised(0.3f * silu(1.0)));
}

template <class Matrix>
void expect_same_bits(ExpertFormat format) {
  test::Random random(62);
  // More tokens than one pass and more rows per expert than one token block.
  Case<Matrix> data(random, 300, 2, 4, 160, 96);
  std::vector<Bf16> one, two;
  {
    const test::ScopedThreads threads(1);
    one = data.run(format, 0, 300);
  }
  {
    const test::ScopedThreads threads(3);
    two = data.run(format, 0, 300);
  }
  EXPECT_TRUE(test::same_bytes(one, two));
  const int64_t row = 2 * 160;
  for (const int t : {0, 100, 255, 256, 299}) {
    const std::vector<Bf16> in_batch(one.begin() + t * row, one.begin() + (t + 1) * row);
    EXPECT_TRUE(test::same_bytes(data.run(format, t, 1), in_batch)) << t;
  }
}

TEST(Experts, Fp4SameBitsAloneOrInABatchAndForAnyThreads) {
  expect_same_bits<test::Fp4Matrix>(ExpertFormat::kFp4);
}
TEST(Experts, Fp8SameBitsAloneOrInABatchAndForAnyThreads) {
  expect_same_bits<test::Fp8Matrix>(ExpertFormat::kFp8);
}

TEST(Experts, ExpertOutOfRangeAndOddShapesAreErrors) {
  test::Random random(63);
  Case<test::Fp4Matrix> data(random, 2, 2, 3, 64, 32);
  data.experts[3] = 3;
  EXPECT_THROW(data.run(ExpertFormat::kFp4, 0, 2), Error);
  data.experts[3] = -2;
  EXPECT_THROW(data.run(ExpertFormat::kFp4, 0, 2), Error);
  Case<test::Fp8Matrix> odd(random, 1, 1, 1, 48, 32);
  EXPECT_THROW(odd.run(ExpertFormat::kFp4, 0, 1), Error);
}

TEST(Experts, PaddingRowsAreSkipped) {
  test::Random random(65);
  Case<test::Fp4Matrix> data(random, 5, 2, 3, 64, 32);
  const std::vector<Bf16> expected = data.run(ExpertFormat::kFp4, 0, 5);
  data.experts[4] = data.experts[5] = -1;  // token 2
  const std::vector<Bf16> out = data.run(ExpertFormat::kFp4, 0, 5);
  for (size_t i = 0; i < out.size(); ++i) {
    const bool padding = i / 64 == 4 || i / 64 == 5;
    ASSERT_EQ(out[i].bits, padding ? 0x7fc0 : expected[i].bits) << i;
  }
}

// Spec 3.5: an FP4 matrix recast to FP8 has the same values; both paths then differ only in the order of their sums.
TEST(Experts, Fp4AndItsFp8RecastAgree) {
  test::Random random(64);
  Case<test::Fp4Matrix> fp4(random, 3, 2, 2, 128, 128);
  test::Random again(64);
  Case<test::Fp8Matrix> fp8(again, 3, 2, 2, 128, 128);
  const auto recast = [](const test::Fp4Matrix& from, test::Fp8Matrix& to) {
    const int scale = *std::max_element(from.scales.begin(), from.scales.end()) - 6;
    to.scales = {static_cast<uint8_t>(scale)};
    for (int o = 0; o < 128; ++o) {
      for (int k = 0; k < 128; ++k) {
        const double value = from.at(o, k) * std::ldexp(1.0, 127 - scale);
        to.codes[o * 128 + k] = float_to_e4m3(static_cast<float>(value));
        ASSERT_EQ(to.at(o, k), from.at(o, k));
      }
    }
  };
  for (int e = 0; e < 2; ++e) {
    recast(fp4.w1[e], fp8.w1[e]);
    recast(fp4.w2[e], fp8.w2[e]);
    recast(fp4.w3[e], fp8.w3[e]);
  }
  fp8.x = fp4.x;
  fp8.experts = fp4.experts;
  fp8.weights = fp4.weights;
  for (int e = 0; e < 2; ++e) {
    fp8.w1_view[e] = fp8.w1[e].expert();
    fp8.w2_view[e] = fp8.w2[e].expert();
    fp8.w3_view[e] = fp8.w3[e].expert();
  }
  const auto a = fp4.run(ExpertFormat::kFp4, 0, 3), b = fp8.run(ExpertFormat::kFp8, 0, 3);
  double difference = 0.0, norm = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(to_float(a[i]) - to_float(b[i]), 2);
    norm += std::pow(to_float(a[i]), 2);
  }
  EXPECT_GT(norm, 0.0);
  EXPECT_LT(std::sqrt(difference / norm), 3e-3);
}

TEST(Experts, PaddingRowsAreLeftAlone) {
  test::Random random(71);
  Case<test::Fp4Matrix> data(random, 5, 2, 4, 64, 32);
  const std::vector<Bf16> whole = data.run(ExpertFormat::kFp4, 0, 5);
  for (const size_t pair : {2, 3, 8, 9}) data.experts[pair] = -1;  // tokens 1 and 4
  const std::vector<Bf16> padded = data.run(ExpertFormat::kFp4, 0, 5);
  for (size_t i = 0; i < padded.size(); ++i) {
    const size_t token = i / (2 * 64);
    ASSERT_EQ(padded[i].bits, token == 1 || token == 4 ? 0x7fc0 : whole[i].bits) << i;
  }
  std::fill(data.experts.begin(), data.experts.end(), -1);
  for (const Bf16 value : data.run(ExpertFormat::kFp4, 0, 5)) ASSERT_EQ(value.bits, 0x7fc0);
}

}  // namespace
}  // namespace dsv4
