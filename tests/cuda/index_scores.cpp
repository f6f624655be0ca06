#include "ops/index_scores.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "backend/cpu/kv_codec.h"
#include "backend/cpu/ops.h"
#include "base/error.h"
#include "support/compare.h"
#include "support/gpu.h"
#include "support/random_data.h"
#include "support/step.h"

namespace dsv4 {
namespace {

constexpr int kRatio = 4;
constexpr uint16_t kUntouched = 0xffff;  // poison of DeviceArray

// The operands of one call on the host. The scales of an entry and a head span 2^9: their dot products fit in 24 bits, so that only the
// order of the head sum may show.
struct Case {
  test::Step step;
  int num_heads, dim, entries_per_page, topk;
  int row_begin = 0, row_end;
  int64_t stride = 1;
  std::vector<uint8_t> codes, scales, pages;
  std::vector<Bf16> weights;

  Case(test::Random& random, const test::Step& s, int num_slots, int heads, int index_head_dim, int k,
       int per_page = kPagePositions / kRatio)
      : step(s), num_heads(heads), dim(index_head_dim), entries_per_page(per_page), topk(k), row_end(static_cast<int>(s.positions.size())) {
    const size_t num_queries = step.positions.size() * num_heads;
    codes = test::random_bytes(random, num_queries * dim / 2);
    scales = test::random_ue8m0(random, num_queries * dim / 32, -3, 1);
    weights = test::random_bf16(random, num_queries);
    pages.resize(static_cast<size_t>(num_slots) * step.pages_per_slot * IndexEntryLayout{dim}.page_bytes(entries_per_page));
    for (int page = 0; page < num_slots * step.pages_per_slot; ++page) {
      for (int entry = 0; entry < entries_per_page; ++entry) {
        const cpu::EntryBytes bytes = cpu::entry_bytes(IndexEntryLayout{dim}, pages.data(), page, entries_per_page, entry);
        const std::vector<uint8_t> values = test::random_bytes(random, dim / 2), entry_scales = test::random_ue8m0(random, dim / 32, -3, 2);
        std::copy(values.begin(), values.end(), bytes.values);
        std::copy(entry_scales.begin(), entry_scales.end(), bytes.scales);
      }
    }
    for (const int position : step.positions) stride = std::max<int64_t>(stride, num_visible_entries(position, kRatio) + 3);
  }

  IndexScoresParams params() const {
    IndexScoresParams params{};
    params.score_stride = stride;
    params.row_begin = row_begin;
    params.row_end = row_end;
    params.num_heads = num_heads;
    params.index_head_dim = dim;
    params.ratio = kRatio;
    params.topk = topk;
    return params;
  }

  std::vector<Bf16> run_cpu() {
    std::vector<Bf16> scores((row_end - row_begin) * stride, Bf16{kUntouched});
    IndexScoresParams cpu_params = params();
    cpu_params.codes = codes.data();
    cpu_params.scales = scales.data();
    cpu_params.weights = weights.data();
    cpu_params.batch = step.view();
    cpu_params.entries = {pages.data(), entries_per_page};
    cpu_params.scores = scores.data();
    cpu::index_scores(cpu_params);
    return scores;
  }

  std::vector<Bf16> run_gpu(Backend& gpu) const {
    const test::DeviceArray<uint8_t> gpu_codes(gpu, codes), gpu_scales(gpu, scales), gpu_pages(gpu, pages);
    const test::DeviceArray<Bf16> gpu_weights(gpu, weights);
    const test::DeviceArray<int32_t> positions(gpu, step.positions), seq_idx(gpu, step.seq_idx), begins(gpu, step.row_begin),
        slots(gpu, step.slots), page_table(gpu, step.page_table);
    const size_t num_scores = static_cast<size_t>((row_end - row_begin) * stride);
    test::DeviceArray<Bf16> scores(gpu, std::max<size_t>(num_scores, 1));
    IndexScoresParams gpu_params = params();
    gpu_params.codes = gpu_codes.data();
    gpu_params.scales = gpu_scales.data();
    gpu_params.weights = gpu_weights.data();
    gpu_params.batch = step.view();
    gpu_params.batch.token_ids = nullptr;
    gpu_params.batch.positions = positions.data();
    gpu_params.batch.seq_idx = seq_idx.data();
    gpu_params.batch.row_begin = begins.data();
    gpu_params.batch.slots = slots.data();
    gpu_params.batch.page_table = page_table.data();
    gpu_params.entries = {gpu_pages.data(), entries_per_page};
    gpu_params.scores = scores.data();
    gpu.index_scores(gpu_params);
    std::vector<Bf16> written = scores.host();
    written.resize(num_scores);
    return written;
  }
};

// bf16 numbers between two scores.
int ulps_between(Bf16 a, Bf16 b) {
  const auto line = [](Bf16 x) { return (x.bits & 0x8000u) != 0 ? -static_cast<int>(x.bits & 0x7fffu) : static_cast<int>(x.bits); };
  return std::abs(line(a) - line(b));
}

// Where the CPU writes a score the GPU has the same or, in at most one of a thousand, its neighbour; nothing else is written.
void expect_matches(const std::vector<Bf16>& actual, const std::vector<Bf16>& expected, const Case& input) {
  ASSERT_EQ(actual.size(), expected.size());
  int64_t num_scores = 0, num_different = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const int row = input.row_begin + static_cast<int>(static_cast<int64_t>(i) / input.stride);
    const int entry = static_cast<int>(static_cast<int64_t>(i) % input.stride);
    if (expected[i].bits == kUntouched) {
      ASSERT_EQ(actual[i].bits, kUntouched) << "row " << row << ", entry " << entry;
      continue;
    }
    ++num_scores;
    if (actual[i].bits == expected[i].bits) continue;
    ++num_different;
    ASSERT_LE(ulps_between(actual[i], expected[i]), 1)
        << "row " << row << ", entry " << entry << ": " << to_float(actual[i]) << ", expected " << to_float(expected[i]);
  }
  EXPECT_LE(num_different * 1000, num_scores);
}

class IndexScoresGpu : public test::GpuTest {};

TEST_F(IndexScoresGpu, MatchesTheCpu) {
  test::Random random(1);
  for (const int dim : {64, 128}) {
    for (const int num_heads : {1, 2, 3, 8, 9, 32, 64}) {
      // Two sequences: one far enough for scores, across pages and tiles, one that starts.
      Case input(random, test::Step({{1, 1795, 3}, {0, 0, 5}}, 2, 8), 2, num_heads, dim, 16);
      const std::vector<Bf16> actual = input.run_gpu(gpu());
      expect_matches(actual, input.run_cpu(), input);
    }
  }
}

TEST_F(IndexScoresGpu, ProductionShapes) {
  test::Random random(2);
  // Flash and Pro: 64 heads of 128 dims. Decode rows of several sequences around the topk of 512, and one far beyond.
  Case decode(random, test::Step({{0, 2047, 1}, {1, 2051, 1}, {2, 6000, 1}, {3, 100, 1}}, 4, 24), 4, 64, 128, 512);
  expect_matches(decode.run_gpu(gpu()), decode.run_cpu(), decode);
  // A prefill chunk.
  Case prefill(random, test::Step({{0, 2000, 160}}, 1, 9), 1, 64, 128, 512);
  expect_matches(prefill.run_gpu(gpu()), prefill.run_cpu(), prefill);
}

TEST_F(IndexScoresGpu, ALongRow) {
  test::Random random(3);
  Case input(random, test::Step({{0, 4 * 90000 + 2, 1}}, 1, 1410), 1, 8, 128, 1024);
  expect_matches(input.run_gpu(gpu()), input.run_cpu(), input);
}

TEST_F(IndexScoresGpu, EveryCodeAndScale) {
  // One head of weight 1 and one dim at a time: the score is relu of one product of two codes and two scales.
  test::Random random(4);
  Case input(random, test::Step({{0, 4 * 64 * 2 - 1, 128}}, 1, 3), 1, 1, 128, 8);
  std::fill(input.codes.begin(), input.codes.end(), uint8_t{0});
  std::fill(input.weights.begin(), input.weights.end(), to_bf16(1.0f));
  for (int row = 0; row < 128; ++row) {
    const uint8_t code = static_cast<uint8_t>(row % 15 + 1);
    input.codes[static_cast<size_t>(row * 64 + row / 2)] = static_cast<uint8_t>(row % 2 == 0 ? code : code << 4);
    for (int block = 0; block < 4; ++block) input.scales[static_cast<size_t>(row * 4 + block)] = static_cast<uint8_t>(90 + row / 2);
  }
  for (int page = 0; page < 3; ++page) {
    for (int entry = 0; entry < 64; ++entry) {
      const cpu::EntryBytes bytes = cpu::entry_bytes(IndexEntryLayout{128}, input.pages.data(), page, 64, entry);
      std::fill_n(bytes.scales, 4, static_cast<uint8_t>(150 - entry));
    }
  }
  const std::vector<Bf16> actual = input.run_gpu(gpu());
  EXPECT_TRUE(test::same_bytes(actual, input.run_cpu()));
}

TEST_F(IndexScoresGpu, NegativeWeightsAndLargestSums) {
  test::Random random(5);
  Case negative(random, test::Step({{0, 400, 1}}, 1, 2), 1, 4, 128, 8);
  for (Bf16& weight : negative.weights) weight.bits |= 0x8000u;
  expect_matches(negative.run_gpu(gpu()), negative.run_cpu(), negative);

  Case large(random, test::Step({{0, 299, 1}}, 1, 2), 1, 2, 128, 8);
  std::fill(large.codes.begin(), large.codes.end(), uint8_t{0x77});
  std::fill(large.scales.begin(), large.scales.end(), uint8_t{127});
  std::fill(large.weights.begin(), large.weights.end(), to_bf16(1.0f));
  for (int page = 0; page < 2; ++page) {
    for (int entry = 0; entry < 64; ++entry) {
      const cpu::EntryBytes bytes = cpu::entry_bytes(IndexEntryLayout{128}, large.pages.data(), page, 64, entry);
      std::fill_n(bytes.values, 64, uint8_t{0x77});
      std::fill_n(bytes.scales, 4, uint8_t{127});
    }
  }
  const std::vector<Bf16> actual = large.run_gpu(gpu());
  for (int entry = 0; entry < 75; ++entry) EXPECT_EQ(to_float(actual[entry]), 2 * 128 * 36.0f);
}

TEST_F(IndexScoresGpu, RowsThatTakeEverythingAndPaddingRowsAreSkipped) {
  test::Random random(6);
  // 16 visible entries at position 63, 17 at 67.
  Case input(random, test::Step({{0, 60, 10}}, 1, 1), 1, 4, 128, 16);
  std::vector<Bf16> actual = input.run_gpu(gpu());
  EXPECT_EQ(actual[6 * input.stride].bits, kUntouched);
  EXPECT_NE(actual[7 * input.stride].bits, kUntouched);
  expect_matches(actual, input.run_cpu(), input);

  std::fill(input.step.positions.begin(), input.step.positions.end(), -1);
  actual = input.run_gpu(gpu());
  for (const Bf16 score : actual) EXPECT_EQ(score.bits, kUntouched);
}

TEST_F(IndexScoresGpu, PagesOfOtherSizes) {
  test::Random random(7);
  for (const int per_page : {4, 8, 256}) {
    Case input(random, test::Step({{0, 1330, 20}}, 1, 100), 1, 4, 64, 5, per_page);
    expect_matches(input.run_gpu(gpu()), input.run_cpu(), input);
  }
}

TEST_F(IndexScoresGpu, RowsAloneGiveTheSameBytes) {
  test::Random random(8);
  const Case together(random, test::Step({{0, 9700, 40}, {1, 1000, 21}}, 2, 40), 2, 16, 128, 64);
  const std::vector<Bf16> all = together.run_gpu(gpu());
  for (int row = 0; row < together.row_end; row += 7) {
    Case alone = together;
    alone.row_begin = row;
    alone.row_end = row + 1;
    const std::vector<Bf16> scores = alone.run_gpu(gpu());
    EXPECT_TRUE(test::same_bytes(std::span<const Bf16>(scores),
                                 std::span<const Bf16>(all).subspan(static_cast<size_t>(row * together.stride), scores.size())))
        << "row " << row;
  }
}

TEST_F(IndexScoresGpu, NoRows) {
  test::Random random(9);
  Case input(random, test::Step({{0, 300, 1}}, 1, 2), 1, 4, 128, 8);
  input.row_begin = 1;
  EXPECT_TRUE(input.run_gpu(gpu()).empty());
}

TEST_F(IndexScoresGpu, RefusesOtherShapes) {
  IndexScoresParams params{};
  params.num_heads = 4;
  params.index_head_dim = 96;
  EXPECT_THROW(gpu().index_scores(params), Error);
  params.index_head_dim = 128;
  params.num_heads = 65;
  EXPECT_THROW(gpu().index_scores(params), Error);
  params.num_heads = 4;
  params.row_end = 1;
  params.entries.entries_per_page = 7;
  EXPECT_THROW(gpu().index_scores(params), Error);
}

}  // namespace
}  // namespace dsv4
