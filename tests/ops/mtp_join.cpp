#include "ops/mtp_join.h"

#include <gtest/gtest.h>

#include <vector>

#include "backend/cpu/ops.h"
#include "support/random_data.h"

namespace dsv4 {
namespace {

TEST(MtpJoin, AddsTheTokenToEveryStream) {
  test::Random random(101);
  for (const auto& [num_tokens, hc_mult, hidden_size] : {std::tuple(1, 4, 512), std::tuple(3, 2, 33), std::tuple(2, 1, 1)}) {
    const auto e = test::random_bf16(random, static_cast<size_t>(num_tokens) * hidden_size);
    const auto g = test::random_bf16(random, static_cast<size_t>(num_tokens) * hc_mult * hidden_size);
    std::vector<Bf16> streams(g.size(), Bf16{0x7fc0});
    cpu::mtp_join({e.data(), g.data(), streams.data(), num_tokens, hc_mult, hidden_size});
    for (int t = 0; t < num_tokens; ++t) {
      for (int h = 0; h < hc_mult; ++h) {
        for (int k = 0; k < hidden_size; ++k) {
          const size_t i = (static_cast<size_t>(t) * hc_mult + h) * hidden_size + k;
          ASSERT_EQ(streams[i].bits, to_bf16(to_float(e[static_cast<size_t>(t) * hidden_size + k]) + to_float(g[i])).bits)
              << t << " " << h << " " << k;
        }
      }
    }
  }
}

}  // namespace
}  // namespace dsv4
