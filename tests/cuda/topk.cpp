#include "ops/topk.h"

#include <gtest/gtest.h>

#include <limits>

#include "backend/cpu/ops.h"
#include "base/error.h"
#include "ops/batch.h"
#include "support/compare.h"
#include "support/gpu.h"
#include "support/random_data.h"

namespace dsv4 {
namespace {

constexpr int32_t kUntouched = -1;  // poison of DeviceArray

struct Case {
  std::vector<Bf16> scores;
  std::vector<int32_t> positions;
  int64_t stride;
  int topk;
  int row_begin = 0, row_end;

  // One row per count of visible entries.
  Case(const std::vector<int>& visible, int64_t score_stride, int k)
      : stride(score_stride), topk(k), row_end(static_cast<int>(visible.size())) {
    for (const int count : visible) positions.push_back(4 * count + 1 + (count % 2));
    scores.resize(visible.size() * static_cast<size_t>(stride), Bf16{0x7f80});
  }

  std::vector<int32_t> run_gpu(Backend& gpu) const {
    const test::DeviceArray<Bf16> gpu_scores(gpu, scores);
    const test::DeviceArray<int32_t> gpu_positions(gpu, positions);
    test::DeviceArray<int32_t> selected(gpu, positions.size() * static_cast<size_t>(topk));
    gpu.topk({gpu_scores.data(), gpu_positions.data(), selected.data(), stride, row_begin, row_end, 4, topk});
    return selected.host();
  }
  std::vector<int32_t> run_cpu() const {
    std::vector<int32_t> selected(positions.size() * static_cast<size_t>(topk), kUntouched);
    cpu::topk({scores.data(), positions.data(), selected.data(), stride, row_begin, row_end, 4, topk});
    return selected;
  }
  void expect_matches(Backend& gpu) const {
    const std::vector<int32_t> actual = run_gpu(gpu);
    EXPECT_TRUE(test::same_bytes(actual, run_cpu())) << positions.size() << " rows, stride " << stride << ", topk " << topk;
  }
};

// Row `row` of a case gets `values`.
void set_row(Case& input, int row, const std::vector<Bf16>& values) {
  std::copy(values.begin(), values.end(), input.scores.begin() + row * input.stride);
}

std::vector<Bf16> coarse_scores(test::Random& random, int count, int num_values) {
  std::vector<Bf16> scores(static_cast<size_t>(count));
  for (Bf16& score : scores) {
    score = to_bf16(static_cast<float>(random.below(num_values) - num_values / 2));
    if (score.bits == 0 && random.below(2) == 0) score.bits = 0x8000;  // −0
  }
  return scores;
}

class TopkGpu : public test::GpuTest {};

TEST_F(TopkGpu, MatchesTheCpu) {
  test::Random random(1);
  // Odd strides: rows at every alignment.
  for (const auto& [visible, stride, k] : {std::tuple{65, 71, 64},
                                           {200, 203, 1},
                                           {1000, 1001, 64},
                                           {2048, 2049, 512},
                                           {2048, 2048, 1024},
                                           {8192, 8193, 128},
                                           {40001, 40003, 512}}) {
    std::vector<int> counts;
    for (int row = 0; row < 9; ++row) counts.push_back(visible - row * (visible / 100));
    Case input(counts, stride, k);
    for (int row = 0; row < 9; ++row) {
      // Scores of one octave, of many, and few distinct values with zeros of both signs.
      const std::vector<Bf16> values = row % 3 == 0   ? test::random_bf16(random, static_cast<size_t>(counts[row]), 0.01f)
                                       : row % 3 == 1 ? test::random_bf16(random, static_cast<size_t>(counts[row]), 1e4f)
                                                      : coarse_scores(random, counts[row], 5);
      set_row(input, row, values);
    }
    input.expect_matches(gpu());
  }
}

TEST_F(TopkGpu, EveryClusterSize) {
  test::Random random(2);
  for (const int visible : {32768, 32769, 65536, 100000, 131080, 262144}) {
    for (const bool coarse : {false, true}) {
      Case input({visible, visible / 2, 1025, 1024, 3}, visible, 1024);
      for (int row = 0; row < 5; ++row) {
        set_row(input, row, coarse ? coarse_scores(random, visible, 4) : test::random_bf16(random, static_cast<size_t>(visible), 30.0f));
      }
      input.expect_matches(gpu());
    }
  }
}

TEST_F(TopkGpu, AllScoresEqual) {
  for (const int visible : {33, 5000, 70000}) {
    Case input({visible}, visible, 32);
    std::fill(input.scores.begin(), input.scores.end(), to_bf16(1.5f));
    const std::vector<int32_t> selected = input.run_gpu(gpu());
    for (int i = 0; i < 32; ++i) EXPECT_EQ(selected[i], visible - 32 + i);
  }
}

TEST_F(TopkGpu, InfinitiesExtremesAndZeros) {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> values = {1, infinity, -infinity, 3e38f, -3e38f, 1e-40f, -0.0f, 0.0f, -0.0f, -1e-40f, infinity, -infinity};
  std::vector<Bf16> scores;
  for (const float value : values) scores.push_back(to_bf16(value));
  for (int k = 1; k <= 12; ++k) {
    Case input({12}, 12, k);
    set_row(input, 0, scores);
    input.expect_matches(gpu());
  }
}

TEST_F(TopkGpu, FewVisibleEntriesAndPaddingRows) {
  Case input({0, 1, 4, 8, 7}, 8, 8);
  input.positions.push_back(-1);
  input.positions.push_back(-1000);
  input.positions.push_back(0);
  input.row_end = 8;
  input.scores.resize(8 * 8, Bf16{0x7fff});
  const std::vector<int32_t> selected = input.run_gpu(gpu());
  const int visible[] = {0, 1, 4, 8, 7, 0, 0, 0};
  for (int row = 0; row < 8; ++row) {
    for (int i = 0; i < 8; ++i) EXPECT_EQ(selected[row * 8 + i], i < visible[row] ? i : -1) << "row " << row << ", " << i;
  }
}

TEST_F(TopkGpu, WritesOnlyItsRows) {
  test::Random random(3);
  Case input({300, 301, 302, 303, 304}, 310, 16);
  for (int row = 0; row < 5; ++row) set_row(input, row, test::random_bf16(random, 304));
  input.row_begin = 2;
  input.row_end = 4;
  input.expect_matches(gpu());
}

TEST_F(TopkGpu, NoRows) {
  Case input({300}, 300, 16);
  input.row_end = 0;
  for (const int32_t entry : input.run_gpu(gpu())) EXPECT_EQ(entry, kUntouched);
}

TEST_F(TopkGpu, ManyRows) {
  // A prefill chunk: growing rows, most of them beyond topk.
  test::Random random(4);
  std::vector<int> counts;
  for (int row = 0; row < 1500; ++row) counts.push_back(row + 10);
  Case input(counts, 1510, 512);
  input.scores = test::random_bf16(random, input.scores.size(), 2.0f);
  input.expect_matches(gpu());
}

TEST_F(TopkGpu, RefusesRowsThatDoNotFit) {
  TopkParams params{};
  params.topk = 512;
  params.row_end = 1;
  params.score_stride = 10'000'000;
  EXPECT_THROW(gpu().topk(params), Error);
  params.score_stride = 1000;
  params.topk = 0;
  EXPECT_THROW(gpu().topk(params), Error);
}

}  // namespace
}  // namespace dsv4
