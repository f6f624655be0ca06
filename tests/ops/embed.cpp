#include "ops/embed.h"

#include <gtest/gtest.h>

#include <vector>

#include "backend/cpu/ops.h"
#include "base/error.h"
#include "support/random_data.h"

namespace dsv4 {
namespace {

TEST(Embed, CopiesTheRowToEveryStream) {
  test::Random random(111);
  const int vocab_size = 11, hidden_size = 37;
  const auto table = test::random_bf16(random, static_cast<size_t>(vocab_size) * hidden_size);
  const std::vector<int32_t> token_ids = {10, 0, 3, 3};
  for (const int hc_mult : {1, 4}) {
    std::vector<Bf16> streams(token_ids.size() * hc_mult * hidden_size, Bf16{0x7fc0});
    cpu::embed({token_ids.data(), table.data(), streams.data(), static_cast<int>(token_ids.size()), hc_mult, hidden_size});
    for (size_t i = 0; i < streams.size(); ++i) {
      const size_t t = i / (static_cast<size_t>(hc_mult) * hidden_size), k = i % hidden_size;
      ASSERT_EQ(streams[i].bits, table[static_cast<size_t>(token_ids[t]) * hidden_size + k].bits) << i;
    }
  }
}

TEST(Embed, NegativeIdsAreErrors) {
  const std::vector<Bf16> table(8, Bf16{0});
  std::vector<Bf16> streams(8);
  const int32_t token_id = -1;
  EXPECT_THROW(cpu::embed({&token_id, table.data(), streams.data(), 1, 1, 8}), Error);
}

}  // namespace
}  // namespace dsv4
