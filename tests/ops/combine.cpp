#include "ops/combine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "backend/cpu/ops.h"
#include "support/compare.h"
#include "support/random_data.h"

namespace dsv4 {
namespace {

std::vector<Bf16> run(const std::vector<Bf16>& routed, const std::vector<int32_t>& experts, const std::vector<Bf16>& shared, int num_tokens,
                      int num_selected, int hidden_size) {
  std::vector<Bf16> out(shared.size(), Bf16{0x7fc0});
  cpu::combine({routed.data(), experts.data(), shared.data(), out.data(), num_tokens, num_selected, hidden_size});
  return out;
}

TEST(Combine, SlotsWithoutAnExpertAddNothing) {
  const int hidden_size = 3;
  std::vector<Bf16> routed(2 * 2 * hidden_size, Bf16{0x7fc0});
  for (int k = 0; k < hidden_size; ++k) routed[hidden_size + k] = to_bf16(static_cast<float>(k));
  const std::vector<Bf16> shared(2 * hidden_size, to_bf16(8.0f));
  const auto out = run(routed, {-1, 4, -1, -1}, shared, 2, 2, hidden_size);
  for (int k = 0; k < hidden_size; ++k) {
    EXPECT_EQ(to_float(out[k]), 8.0f + static_cast<float>(k));
    EXPECT_EQ(to_float(out[hidden_size + k]), 8.0f);
  }
}

TEST(Combine, AddsInAscendingExpertIdAndTheSharedExpertLast) {
  test::Random random(91);
  const int num_tokens = 5, num_selected = 6, hidden_size = 700;
  auto routed = test::random_bf16(random, static_cast<size_t>(num_tokens) * num_selected * hidden_size);
  const auto shared = test::random_bf16(random, static_cast<size_t>(num_tokens) * hidden_size);
  std::vector<int32_t> experts;
  for (int t = 0; t < num_tokens; ++t) {
    std::vector<int32_t> ids = {250, 3, 17, 101, 64, 0};
    std::rotate(ids.begin(), ids.begin() + t, ids.end());
    experts.insert(experts.end(), ids.begin(), ids.end());
  }
  const auto out = run(routed, experts, shared, num_tokens, num_selected, hidden_size);
  for (int t = 0; t < num_tokens; ++t) {
    std::vector<std::pair<int32_t, int>> order;
    for (int slot = 0; slot < num_selected; ++slot) order.emplace_back(experts[t * num_selected + slot], slot);
    std::sort(order.begin(), order.end());
    for (int k = 0; k < hidden_size; ++k) {
      float sum = 0.0f;
      for (const auto& [id, slot] : order) sum += to_float(routed[(static_cast<size_t>(t) * num_selected + slot) * hidden_size + k]);
      sum += to_float(shared[static_cast<size_t>(t) * hidden_size + k]);
      ASSERT_EQ(out[static_cast<size_t>(t) * hidden_size + k].bits, to_bf16(sum).bits) << t << " " << k;
    }
  }
}

TEST(Combine, OrderIsVisible) {
  // In fp32 2^24 + 1 − 2^24 is 0, but 2^24 − 2^24 + 1 is 1.
  const std::vector<Bf16> routed = {to_bf16(0x1p24f), to_bf16(1.0f), to_bf16(-0x1p24f)};
  const std::vector<Bf16> shared = {to_bf16(0.0f)};
  EXPECT_EQ(to_float(run(routed, {5, 9, 7}, shared, 1, 3, 1)[0]), 1.0f);
  EXPECT_EQ(to_float(run(routed, {5, 7, 9}, shared, 1, 3, 1)[0]), 0.0f);
  EXPECT_EQ(to_float(run(routed, {7, 5, 9}, shared, 1, 3, 1)[0]), 0.0f);
}

TEST(Combine, SkipsMissingExperts) {
  const std::vector<Bf16> routed = {Bf16{0x7fc0}, to_bf16(2.0f), Bf16{0x7fc0}, Bf16{0x7fc0}};
  EXPECT_EQ(to_float(run(routed, {-1, 0}, {to_bf16(1.0f)}, 1, 2, 1)[0]), 3.0f);
  EXPECT_EQ(to_float(run(routed, {-1, -1}, {to_bf16(1.0f)}, 1, 2, 1)[0]), 1.0f);
}

TEST(Combine, OneRoundingOnly) {
  // 1 + 2^-8 is a tie of bf16; 2^-8 more from the shared expert makes it exact.
  const std::vector<Bf16> routed = {to_bf16(1.0f), to_bf16(0x1p-8f)};
  EXPECT_EQ(to_float(run(routed, {0, 1}, {to_bf16(0x1p-8f)}, 1, 2, 1)[0]), 1.0f + 0x1p-7f);
}

TEST(Combine, PaddingRowsDoNotReadRoutedOutput) {
  const std::vector<Bf16> routed(2, Bf16{0x7fc0});
  EXPECT_EQ(to_float(run(routed, {-1, -1}, {to_bf16(3.0f)}, 1, 2, 1)[0]), 3.0f);
}

}  // namespace
}  // namespace dsv4
