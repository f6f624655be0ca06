#include "ops/kv_store.h"

#include <gtest/gtest.h>

#include "backend/cpu/ops.h"
#include "support/compare.h"
#include "support/random_data.h"
#include "support/reference.h"
#include "support/step.h"

namespace dsv4 {
namespace {

constexpr float kEps = 1e-6f;

struct Ring {
  KvEntryLayout layout;
  int ring_size;
  std::vector<uint8_t> bytes;

  Ring(int head_dim, int size, int num_slots) : layout{head_dim}, ring_size(size), bytes(num_slots * layout.page_bytes(size), 0xee) {}
  const uint8_t* page(int slot) const { return bytes.data() + slot * layout.page_bytes(ring_size); }
};

void store(const std::vector<Bf16>& kv, const std::vector<Bf16>& weight, const std::vector<float>& freqs, const test::Step& step,
           Ring& ring) {
  cpu::kv_store({kv.data(), weight.data(), freqs.data(), step.view(), {ring.bytes.data(), ring.ring_size}, ring.layout.head_dim, kEps});
}

TEST(KvStore, MatchesTheSteps) {
  test::Random random(1);
  const std::vector<float> freqs = test::plain_frequencies();
  int different = 0, total = 0;
  for (const int head_dim : {64, 128, 256, 512}) {
    // Two sequences in one batch; the first crosses the end of its ring.
    const test::Step step({{1, 130, 9}, {0, 0, 3}}, 2, 1);
    Ring ring(head_dim, 136, 2);
    const std::vector<Bf16> kv = test::random_bf16(random, step.positions.size() * head_dim, 4.0f);
    const std::vector<Bf16> weight = test::random_bf16(random, head_dim);
    store(kv, weight, freqs, step, ring);
    for (size_t row = 0; row < step.positions.size(); ++row) {
      const int position = step.positions[row];
      const auto normed = test::round_all(test::reference_rms(test::to_floats(&kv[row * head_dim], head_dim), weight.data(), kEps));
      const auto expected = test::reference_fp8_entry(test::round_all(test::reference_rotate(normed, position, freqs)));
      const auto actual = test::read_fp8_entry(head_dim, ring.page(step.slots[step.seq_idx[row]]), 136, position % 136);
      different += test::num_different(actual, expected);
      total += head_dim;
      // A bf16 rounding that falls on the other side may cost one step of the coarser format: 1/8 of the value or less.
      for (int i = 0; i < head_dim; ++i) EXPECT_TRUE(test::close_to(actual[i], expected[i], 0.13 * std::fabs(expected[i]) + 1e-3)) << i;
    }
  }
  EXPECT_LE(different, total / 1000);
}

TEST(KvStore, WritesOneEntryAndZeroPadding) {
  const int head_dim = 128, ring_size = 5;
  Ring ring(head_dim, ring_size, 2);
  const std::vector<Bf16> kv(head_dim, to_bf16(0.0f)), weight(head_dim, to_bf16(1.0f));
  const std::vector<float> no_rotation(kRopeDim / 2, 0.0f);             // which could make −0 of 0
  store(kv, weight, no_rotation, test::Step({{1, 7, 1}}, 2, 1), ring);  // position 7 → entry 2 of slot 1
  std::vector<uint8_t> expected(ring.bytes.size(), 0xee);
  uint8_t* page = expected.data() + ring.layout.page_bytes(ring_size);
  std::fill_n(page + 2 * 192, 192, uint8_t{0});
  std::fill_n(page + 5 * 192 + 2 * 4, 4, uint8_t{0});
  page[5 * 192 + 2 * 4] = 105;  // the scale of an all-zero block
  EXPECT_TRUE(test::same_bytes(ring.bytes, expected));
}

TEST(KvStore, RowsAloneGiveTheSameBytes) {
  test::Random random(2);
  const std::vector<float> freqs = test::plain_frequencies();
  const int head_dim = 128, num_rows = 200;
  const std::vector<Bf16> kv = test::random_bf16(random, num_rows * head_dim);
  const std::vector<Bf16> weight = test::random_bf16(random, head_dim);
  Ring together(head_dim, 256, 1), alone(head_dim, 256, 1);
  store(kv, weight, freqs, test::Step({{0, 100, num_rows}}, 1, 1), together);
  for (int row = 0; row < num_rows; ++row) {
    const std::vector<Bf16> one(kv.begin() + row * head_dim, kv.begin() + (row + 1) * head_dim);
    store(one, weight, freqs, test::Step({{0, 100 + row, 1}}, 1, 1), alone);
  }
  EXPECT_TRUE(test::same_bytes(together.bytes, alone.bytes));
}

TEST(KvStore, PaddingRowsStoreNothing) {
  test::Random random(3);
  const int head_dim = 128;
  const std::vector<float> freqs = test::plain_frequencies();
  const std::vector<Bf16> weight = test::random_bf16(random, head_dim);
  const std::vector<Bf16> kv = test::random_bf16(random, 3 * head_dim);
  test::Step padded({{1, 6, 1}}, 2, 1);
  const test::Step alone = padded;
  padded.add_padding();
  padded.add_padding();
  Ring expected(head_dim, 5, 2), actual(head_dim, 5, 2);
  store(kv, weight, freqs, alone, expected);
  store(kv, weight, freqs, padded, actual);
  EXPECT_TRUE(test::same_bytes(actual.bytes, expected.bytes));
}

}  // namespace
}  // namespace dsv4
