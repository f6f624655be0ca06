#include "ops/attention.h"

#include <cuda_runtime.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <string>
#include <type_traits>

#include "backend/cpu/kv_codec.h"
#include "backend/cpu/ops.h"
#include "backend/cpu/vector.h"
#include "base/error.h"
#include "cuda/support/attention_case.h"
#include "cuda/support/attention_reference.h"
#include "runtime/kernels.h"
#include "support/compare.h"
#include "support/error_of.h"
#include "support/random_data.h"
#include "support/reference.h"
#include "support/step.h"

namespace dsv4 {
namespace {

using test::Case;
using test::DeviceCase;
using test::Dims;
using test::make_case;
using test::run_cpu;
using test::run_gpu;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Per row and head: cosine, and every value within two bf16 steps of the head's largest; over all, few values are not bit-equal (with
// probabilities in fp16 about one in ten, of rotated dims twice as many; in bf16 more than every third).
void expect_close(const Case& input, const std::vector<Bf16>& actual, const std::vector<Bf16>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  size_t num_different = 0;
  const size_t dim = input.head_dim;
  for (size_t begin = 0; begin < expected.size(); begin += dim) {
    double dot = 0.0, actual_norm = 0.0, expected_norm = 0.0, largest = 0.0;
    for (size_t i = begin; i < begin + dim; ++i) {
      const double a = to_float(actual[i]), e = to_float(expected[i]);
      dot += a * e;
      actual_norm += a * a;
      expected_norm += e * e;
      largest = std::max(largest, std::fabs(e));
    }
    const size_t row = begin / input.row_values(), head = begin % input.row_values() / dim;
    if (expected_norm == 0.0) {  // no keys
      ASSERT_EQ(actual_norm, 0.0) << "row " << row << ", head " << head;
      continue;
    }
    ASSERT_GE(dot / std::sqrt(actual_norm * expected_norm), 0.99999) << "row " << row << ", head " << head;
    for (size_t i = begin; i < begin + dim; ++i) {
      num_different += actual[i].bits != expected[i].bits ? 1 : 0;
      ASSERT_LE(std::fabs(to_float(actual[i]) - to_float(expected[i])), 0x1p-6 * largest)
          << "row " << row << ", head " << head << ", dim " << i - begin << ": got " << to_float(actual[i]) << ", expected "
          << to_float(expected[i]);
    }
  }
  EXPECT_LE(num_different, expected.size() / 4 + 2) << "of " << expected.size() << " values";
}

void expect_matches_cpu(Backend& gpu, const Case& input) {
  const std::vector<Bf16> actual = run_gpu(gpu, input);
  expect_close(input, actual, run_cpu(input));
}

// One sequence of the case in a step of its own.
Case sequence_alone(const Case& input, int seq) {
  Case alone = input;
  const int begin = input.step.row_begin[seq], end = input.step.row_begin[seq + 1];
  alone.step = test::Step({{input.step.slots[seq], input.step.positions[begin], end - begin}}, input.num_slots, input.step.pages_per_slot);
  alone.q.assign(input.q.begin() + begin * input.row_values(), input.q.begin() + end * input.row_values());
  if (input.num_selected > 0) {
    alone.selected.assign(input.selected.begin() + static_cast<size_t>(begin) * input.num_selected,
                          input.selected.begin() + static_cast<size_t>(end) * input.num_selected);
  }
  return alone;
}

// All rows of the case `times` times.
Case repeated(const Case& input, int times) {
  Case crowd = input;
  for (int i = 1; i < times; ++i) {
    const auto append = [](auto& to, const auto& from) { to.insert(to.end(), from.begin(), from.end()); };
    append(crowd.step.positions, input.step.positions);
    append(crowd.step.token_ids, input.step.token_ids);
    append(crowd.step.seq_idx, input.step.seq_idx);
    append(crowd.q, input.q);
  }
  return crowd;
}

class AttentionGpu : public test::GpuTest {};

TEST_F(AttentionGpu, WindowOfEveryHeadDim) {
  for (const int head_dim : {64, 128, 256, 512}) {
    SCOPED_TRACE(head_dim);
    // Position 0 sees itself; a chunk crosses the end of the ring; another is long enough for the launch that does not split.
    expect_matches_cpu(gpu(), make_case(1, {{0, 0, 3}, {1, 30, 4}, {2, 95, 13}}, 3, 1, {3, head_dim, 8, 21}));
    expect_matches_cpu(gpu(), make_case(2, {{0, 200, 1}, {1, 300, 10}}, 2, 1, {8, head_dim, 128, 150}));
  }
}

TEST_F(AttentionGpu, SelectedEntriesOfEveryHeadDim) {
  for (const int head_dim : {64, 128, 256, 512}) {
    SCOPED_TRACE(head_dim);
    expect_matches_cpu(gpu(), make_case(3, {{1, 700, 2}, {0, 3, 2}, {2, 900, 11}}, 3, 4, {8, head_dim, 128, 150, 4, 100}));
  }
}

TEST_F(AttentionGpu, AllVisibleEntries) {
  // Ratio 128: no entry at 126, the first at 127, two from 255 on; far on several hundred, pages of two.
  expect_matches_cpu(gpu(), make_case(4, {{1, 126, 3}, {0, 254, 3}, {2, 250, 12}}, 3, 2, {4, 128, 16, 40, 128}));
  expect_matches_cpu(gpu(), make_case(5, {{0, 40000, 1}, {1, 20000, 9}}, 2, 157, {4, 512, 128, 140, 128}));
}

TEST_F(AttentionGpu, HeadCounts) {
  for (const int num_heads : {1, 4, 6, 16, 64, 100, 128}) {
    SCOPED_TRACE(num_heads);
    expect_matches_cpu(gpu(), make_case(6, {{0, 700, 1}, {1, 333, 9}}, 2, 3, {num_heads, 512, 128, 140, 4, 40}));
  }
}

TEST_F(AttentionGpu, KeyCounts) {
  struct {
    int position, num_selected;
  } const counts[] = {{0, 0}, {1, 0}, {62, 0}, {63, 0}, {64, 0}, {126, 0}, {127, 0}, {130, 1}, {3000, 512}, {5000, 1024}};
  for (const auto& count : counts) {
    SCOPED_TRACE(count.position);
    const Dims dims{4, 512, 128, 140, count.num_selected > 0 ? 4 : 0, count.num_selected};
    expect_matches_cpu(gpu(), make_case(7, {{0, count.position, 1}}, 1, 20, dims));
    expect_matches_cpu(gpu(), make_case(8, {{0, count.position, 9}}, 1, 20, dims));
  }
}

TEST_F(AttentionGpu, MixedStep) {
  // Decode rows, drafts up to the limit of the split, one row more, and a chunk; Flash's heads.
  expect_matches_cpu(gpu(),
                     make_case(9, {{4, 511, 1}, {0, 1000, 20}, {2, 77, 8}, {1, 640, 9}, {3, 2, 1}}, 5, 5, {64, 512, 128, 155, 4, 200}));
}

TEST_F(AttentionGpu, ASequenceAloneGivesTheSameBits) {
  const Case together =
      make_case(10, {{4, 511, 1}, {0, 1000, 20}, {2, 77, 8}, {1, 640, 9}, {3, 2, 1}, {5, 900, 1}}, 6, 5, {70, 512, 128, 155, 4, 200});
  const std::vector<Bf16> all = run_gpu(gpu(), together);
  for (int seq = 0; seq < 6; ++seq) {
    const Case alone = sequence_alone(together, seq);
    const std::vector<Bf16> out = run_gpu(gpu(), alone);
    EXPECT_TRUE(test::same_bytes(std::span<const Bf16>(out),
                                 std::span<const Bf16>(all).subspan(together.step.row_begin[seq] * together.row_values(), out.size())))
        << "sequence " << seq;
  }
}

// One launch whatever the hint and the memory to share rows in, and the same bits: rows are cut into fewer or more parts.
TEST_F(AttentionGpu, HintsDoNotChangeResults) {
  for (const int num_rows : {1, 5, 40}) {
    SCOPED_TRACE(num_rows);
    Case input = make_case(11, {{0, 2100 - num_rows, num_rows}}, 1, 9, {64, 512, 128, 150 + num_rows, 4, 0});
    const std::vector<Bf16> expected = run_gpu(gpu(), input);
    for (const int max_visible : {526, 4100}) {
      for (const int64_t scratch_bytes : {int64_t{0}, int64_t{9732096}, kAttentionMaxScratch}) {
        input.max_visible = max_visible;
        input.scratch_bytes = scratch_bytes;
        const DeviceCase device(gpu(), input);
        const AttentionParams params = device.params();
        if (scratch_bytes == 0 && max_visible == 4100) {
          EXPECT_EQ(test::error_of([&] { gpu().attention(params); }),
                    "attention: 0 bytes of scratch, expected at least 540672 for 4228 keys");
          continue;
        }
        const std::unique_ptr<Recording> recording = gpu().record([&] { gpu().attention(params); });
        gpu().synchronize();
        EXPECT_EQ(recording->num_kernels(), 1);
        EXPECT_TRUE(test::same_bytes(device.out(), expected)) << max_visible << " entries, " << scratch_bytes << " bytes";
      }
    }
  }
}

// Rows of every length with as few and as many CTAs as there may be: alone, and among so many that each has one CTA.
TEST_F(AttentionGpu, SharedRowsHaveTheBitsOfRowsThatAreNot) {
  for (const int num_keys : {1, 64, 65, 128, 200, 640, 1152, 2300, 4096, 4097, 4800}) {
    SCOPED_TRACE(num_keys);
    const int position = num_keys <= 128 ? num_keys - 1 : (num_keys - 128) * 4;
    const Dims dims{64, 512, 128, 128, num_keys <= 128 ? 0 : 4, 0};
    Case two = make_case(30 + num_keys, {{0, position, 1}, {1, position, 1}}, 2, position / kPagePositions + 1, dims);
    two.max_visible = two.num_visible(0);
    const std::vector<Bf16> all = run_gpu(gpu(), two);
    const Case alone = sequence_alone(two, 1);
    EXPECT_TRUE(test::same_bytes(std::span<const Bf16>(run_gpu(gpu(), alone)), std::span<const Bf16>(all).subspan(all.size() / 2)));
    const std::vector<Bf16> out = run_gpu(gpu(), repeated(two, 75));
    ASSERT_EQ(out.size(), 75 * all.size());
    for (int i = 0; i < 75; ++i) {
      ASSERT_TRUE(test::same_bytes(std::span<const Bf16>(out).subspan(i * all.size(), all.size()), std::span<const Bf16>(all))) << i;
    }
  }
}

// CTAs that have columns of a row each, as many as there is room for, with counters of the backend and as clusters of the C interface.
TEST_F(AttentionGpu, TeamsHaveTheBitsOfRowsThatAreAlone) {
  for (const int num_keys : {1, 200, 640, 1152, 2300}) {
    SCOPED_TRACE(num_keys);
    const int position = num_keys <= 128 ? num_keys - 1 : (num_keys - 128) * 4;
    const Dims dims{128, 512, 128, 128, num_keys <= 128 ? 0 : 4, 0};
    Case one = make_case(60 + num_keys, {{0, position, 1}}, 1, position / kPagePositions + 1, dims);
    one.max_visible = one.num_visible(0);
    std::vector<Bf16> expected = run_gpu(gpu(), repeated(one, 75));
    expected.resize(one.q.size());
    for (const int num_rows : {1, 2, 8, 16, 17, 32, 33}) {
      const Case rows = repeated(one, num_rows);
      const DeviceCase device(gpu(), rows);
      gpu().attention(device.params());
      const std::vector<Bf16> with_counters = device.out();
      run_attention(nullptr, device.params());
      ASSERT_EQ(cudaStreamSynchronize(nullptr), cudaSuccess);
      const std::vector<Bf16> as_clusters = device.out();
      for (int i = 0; i < num_rows; ++i) {
        const auto row_of = [&](const std::vector<Bf16>& out) {
          return std::span<const Bf16>(out).subspan(i * expected.size(), expected.size());
        };
        ASSERT_TRUE(test::same_bytes(row_of(with_counters), std::span<const Bf16>(expected))) << num_rows << " rows, row " << i;
        ASSERT_TRUE(test::same_bytes(row_of(as_clusters), std::span<const Bf16>(expected))) << num_rows << " rows as clusters, row " << i;
      }
    }
  }
}

TEST_F(AttentionGpu, ARecordedStepReadsItsInputsAnew) {
  const Case first = make_case(13, {{0, 511, 1}, {1, 30, 1}}, 2, 5, {8, 512, 128, 150, 4, 60});
  const DeviceCase device(gpu(), first);
  const AttentionParams params = device.params();
  const std::unique_ptr<Recording> recording = gpu().record([&] { gpu().attention(params); });
  const std::vector<Bf16> before = device.out();
  const std::vector<Bf16> poison(before.size(), Bf16{0xffff});
  gpu().copy_from_host(params.out, poison.data(), poison.size() * sizeof(Bf16));
  recording->replay();
  EXPECT_TRUE(test::same_bytes(device.out(), before));
  // Exchange the two sequences' queries on the device: each row answers for the query it now has.
  Case exchanged = first;
  std::rotate(exchanged.q.begin(), exchanged.q.begin() + first.row_values(), exchanged.q.end());
  gpu().copy_from_host(const_cast<Bf16*>(params.q), exchanged.q.data(), exchanged.q.size() * sizeof(Bf16));
  gpu().synchronize();
  recording->replay();
  expect_close(exchanged, device.out(), run_cpu(exchanged));
}

TEST_F(AttentionGpu, PaddingRowsAreZerosAndTouchNothing) {
  const Case plain = make_case(14, {{0, 511, 1}, {1, 30, 1}, {2, 600, 10}}, 3, 5, {70, 512, 128, 150, 4, 60});
  // The same rows with padding sequences of one row after the first and at the end.
  Case padded = plain;
  test::Step& step = padded.step;
  const int pages = step.pages_per_slot;
  step.positions.insert(step.positions.begin() + 1, -1);
  step.positions.push_back(-1);
  step.token_ids.resize(step.positions.size(), 0);
  step.slots.insert(step.slots.begin() + 1, -1);
  step.slots.push_back(-1);
  step.row_begin = {0, 1, 2, 3, 13, 14};
  step.seq_idx = {0, 1, 2};
  step.seq_idx.resize(13, 3);
  step.seq_idx.push_back(4);
  step.page_table.insert(step.page_table.begin() + pages, pages, -1);
  step.page_table.insert(step.page_table.end(), pages, -1);
  const size_t row = plain.row_values();
  padded.q.insert(padded.q.begin() + row, row, Bf16{0x7fc0});
  padded.q.insert(padded.q.end(), row, Bf16{0x7fc0});
  padded.selected.insert(padded.selected.begin() + 60, 60, -1);
  padded.selected.insert(padded.selected.end(), 60, -1);

  const DeviceCase device(gpu(), padded);
  gpu().attention(device.params());
  std::vector<Bf16> out = device.out();
  EXPECT_TRUE(device.caches_are_unchanged());
  for (size_t i = 0; i < row; ++i) {
    ASSERT_EQ(out[row + i].bits, 0) << i;
    ASSERT_EQ(out[out.size() - row + i].bits, 0) << i;
  }
  out.resize(out.size() - row);
  out.erase(out.begin() + row, out.begin() + 2 * row);
  EXPECT_TRUE(test::same_bytes(out, run_gpu(gpu(), plain)));
}

TEST_F(AttentionGpu, NothingSelectedLeavesTheWindow) {
  Case input = make_case(15, {{0, 700, 1}, {1, 600, 9}}, 2, 4, {4, 512, 128, 140, 4, 130});
  std::fill(input.selected.begin(), input.selected.end(), -1);
  const std::vector<Bf16> none_selected = run_gpu(gpu(), input);
  expect_close(input, none_selected, run_cpu(input));
  // Whole tiles without a key, some of them the only ones of a CTA.
  for (const Bf16 value : none_selected) ASSERT_TRUE(std::isfinite(to_float(value)));
}

TEST_F(AttentionGpu, SinksWeighInTheDenominatorOnly) {
  Case input = make_case(16, {{0, 100, 1}, {1, 90, 9}}, 2, 1, {6, 512, 128, 140});
  input.sink = {-kInfinity, -100.0f, 0.0f, 3.0f, 20.0f, 60.0f};
  expect_matches_cpu(gpu(), input);
}

TEST_F(AttentionGpu, LargeLogitsDoNotOverflow) {
  Case input = make_case(17, {{0, 700, 1}, {1, 90, 9}}, 2, 3, {4, 512, 128, 140, 4, 100});
  for (Bf16& value : input.q) value = to_bf16(to_float(value) * 2000.0f);
  for (const Bf16 value : run_gpu(gpu(), input)) ASSERT_TRUE(std::isfinite(to_float(value)));
}

// All codes, subnormal ones included, and scales far apart: the dequantised key is exact.
TEST_F(AttentionGpu, EveryCodeAndScale) {
  test::Random random(18);
  for (const int head_dim : {128, 256, 512}) {
    SCOPED_TRACE(head_dim);
    Case input = make_case(19, {{0, 100, 1}, {1, 90, 9}}, 2, 1, {4, head_dim, 128, 140});
    const KvEntryLayout layout{head_dim};
    for (int slot = 0; slot < 2; ++slot) {
      for (int entry = 0; entry < 140; ++entry) {
        const cpu::EntryBytes bytes = cpu::entry_bytes(layout, input.ring.data(), slot, 140, entry);
        const std::vector<uint8_t> scales = test::random_ue8m0(random, layout.num_scales(), -8, 0);
        for (int i = 0; i < layout.nope_dim(); ++i) {
          const uint8_t code = static_cast<uint8_t>(i < 256 ? i : random.below(256));
          bytes.values[i] = (code & 0x7f) == 0x7f ? 0 : code;
        }
        std::fill(bytes.values + layout.nope_dim(), bytes.values + layout.value_bytes(), uint8_t{0});
        std::copy(scales.begin(), scales.end(), bytes.scales);
      }
    }
    for (Bf16& value : input.q) value = to_bf16(to_float(value) * 0.004f);
    expect_matches_cpu(gpu(), input);
  }
}

// One key, no sink: the output is the key itself, exactly, with scales from 2^-15 to 2^7.
TEST_F(AttentionGpu, ScalesFarApart) {
  const uint8_t keys[][7] = {{115, 117, 119, 122, 124, 127, 130}, {112, 113, 114, 120, 127, 133, 134}, {134, 132, 130, 127, 118, 113, 112}};
  for (const auto& scales : keys) {
    SCOPED_TRACE(static_cast<int>(scales[6]));
    Case single = make_case(20, {{0, 0, 1}}, 1, 1, {1, 512, 1, 1});
    single.sink = {-kInfinity};
    const KvEntryLayout layout{512};
    const cpu::EntryBytes bytes = cpu::entry_bytes(layout, single.ring.data(), 0, 1, 0);
    std::copy(std::begin(scales), std::end(scales), bytes.scales);
    for (int i = 0; i < 448; ++i) bytes.values[i] = static_cast<uint8_t>((i % 16 + i / 64 * 16) | (i % 2 << 7));
    std::fill(bytes.values + 448, bytes.values + layout.value_bytes(), uint8_t{0});
    for (Bf16& value : single.q) value = to_bf16(0.0f);
    const std::vector<Bf16> out = run_gpu(gpu(), single);
    const std::vector<float> key = test::read_fp8_entry(512, single.ring.data(), 1, 0);
    for (int i = 0; i < 512; ++i) ASSERT_EQ(to_float(out[i]), key[i]) << i;
  }
}

TEST_F(AttentionGpu, StepsWithoutRows) {
  const Case input = make_case(21, {{0, 3, 1}}, 1, 1, {4, 512, 8, 10});
  const DeviceCase device(gpu(), input);
  AttentionParams params = device.params();
  params.batch.num_tokens = 0;
  params.batch.num_seqs = 0;
  gpu().attention(params);
  for (const Bf16 value : device.out()) ASSERT_EQ(value.bits, 0xffff);
}

TEST_F(AttentionGpu, RefusesWhatItHasNoKernelFor) {
  const Case input = make_case(22, {{0, 3, 1}}, 1, 1, {4, 512, 8, 10});
  const DeviceCase device(gpu(), input);
  AttentionParams params = device.params();
  params.head_dim = 96;
  EXPECT_EQ(test::error_of([&] { gpu().attention(params); }), "attention: head_dim 96, expected 64, 128, 256 or 512");
  params = device.params();
  params.window = 11;
  EXPECT_EQ(test::error_of([&] { gpu().attention(params); }), "attention: window 11 in a ring of 10 entries, expected 1 ≤ window ≤ ring");
  params = device.params();
  params.entries = {params.ring.data, 64};
  params.ratio = 4;
  params.selected = nullptr;
  params.max_visible = 1 << 22;
  EXPECT_EQ(test::error_of([&] { gpu().attention(params); }), "attention: rows of up to 4194312 keys, expected at most 4194176");
}

// Pages and slots above 4 GiB: the case's caches lie at the end of large ones.
TEST_F(AttentionGpu, CachesAboveFourGiB) {
  constexpr int64_t kFourGiB = int64_t{4} << 30;
  const Case input = make_case(23, {{0, 700, 1}, {1, 600, 9}}, 2, 3, {4, 512, 128, 140, 4, 100});
  const KvEntryLayout layout{512};
  const int64_t ring_bytes = static_cast<int64_t>(layout.page_bytes(140)), page_bytes = static_cast<int64_t>(layout.page_bytes(64));
  const int32_t first_slot = static_cast<int32_t>(kFourGiB / ring_bytes + 1), first_page = static_cast<int32_t>(kFourGiB / page_bytes + 1);
  Buffer ring, pages;
  try {
    ring = Buffer(gpu(), first_slot * ring_bytes + input.ring.size());
    pages = Buffer(gpu(), first_page * page_bytes + input.pages.size());
  } catch (const Error& error) {
    GTEST_SKIP() << error.what();
  }
  gpu().copy_from_host(ring.as<uint8_t>() + first_slot * ring_bytes, input.ring.data(), input.ring.size());
  gpu().copy_from_host(pages.as<uint8_t>() + first_page * page_bytes, input.pages.data(), input.pages.size());
  gpu().synchronize();
  Case far = input;
  for (int32_t& slot : far.step.slots) slot += first_slot;
  for (int32_t& page : far.step.page_table) page += first_page;
  const DeviceCase device(gpu(), far);
  AttentionParams params = device.params();
  params.ring.data = ring.as<uint8_t>();
  params.entries.data = pages.as<uint8_t>();
  gpu().attention(params);
  const std::vector<Bf16> out = device.out();
  EXPECT_TRUE(test::same_bytes(out, run_gpu(gpu(), input)));
  expect_close(input, out, run_cpu(input));
}

// The codes are those that the CPU's quantiser gives for the bf16 output.
TEST_F(AttentionGpu, QuantisedOutputsAreTheQuantisedBf16Output) {
  for (const int head_dim : {64, 128, 256, 512}) {
    SCOPED_TRACE(head_dim);
    const Case input = make_case(24, {{0, 700, 1}, {1, 600, 9}, {2, 0, 1}}, 3, 3, {70, head_dim, 128, 140, 4, 300});
    const DeviceCase device(gpu(), input);
    gpu().attention(device.params());
    const std::vector<Bf16> out = device.out();
    const size_t num_heads = out.size() / head_dim;

    gpu().attention(device.params(AttentionOutput::kFp8));
    std::vector<uint8_t> codes = device.codes(), scales = device.scales();
    const int block = std::min(head_dim, kAttentionFp8Block);
    for (size_t i = 0; i < num_heads * head_dim / block; ++i) {
      uint8_t expected[kAttentionFp8Block], scale;
      cpu::quantize_fp8_block(out.data() + i * block, block, expected, &scale);
      ASSERT_EQ(scales[i], scale) << "block " << i;
      ASSERT_TRUE(std::equal(expected, expected + block, codes.begin() + i * block)) << "block " << i;
    }

    gpu().attention(device.params(AttentionOutput::kFp4));
    codes = device.codes();
    scales = device.scales();
    std::vector<uint8_t> row_codes(head_dim / 2), row_scales(head_dim / kAttentionFp4Block);
    for (size_t head = 0; head < num_heads; ++head) {
      cpu::pack_fp4_row(head_dim, test::to_floats(out.data() + head * head_dim, head_dim).data(), row_codes.data(), row_scales.data());
      ASSERT_TRUE(std::equal(row_codes.begin(), row_codes.end(), codes.begin() + head * row_codes.size())) << "head " << head;
      ASSERT_TRUE(std::equal(row_scales.begin(), row_scales.end(), scales.begin() + head * row_scales.size())) << "head " << head;
    }
  }
}

// Counts of 0, of one key, beyond what there is; one sequence by a cluster, one by single CTAs.
TEST_F(AttentionGpu, KeyCountsShortenTheLists) {
  Case input = make_case(25, {{0, 700, 8}, {1, 600, 12}}, 2, 3, {6, 512, 128, 140, 4, 150});
  const int32_t windows[] = {0, 1, 64, 127, 128, 1000}, entries[] = {0, 1, 63, 149, 150, 5000};
  for (int row = 0; row < input.num_rows(); ++row) {
    input.key_counts.push_back(windows[row % 6]);
    input.key_counts.push_back(entries[(row + row / 6) % 6]);
  }
  input.sink[2] = -kInfinity;
  expect_matches_cpu(gpu(), input);
  const DeviceCase device(gpu(), input);
  gpu().attention(device.params(AttentionOutput::kFp32));
  const std::vector<float> out = device.out_fp32(), lse = device.lse();
  for (int row = 0; row < input.num_rows(); ++row) {
    if (input.key_counts[2 * row] != 0 || input.key_counts[2 * row + 1] != 0) continue;
    for (int head = 0; head < 6; ++head) {
      const size_t index = static_cast<size_t>(row) * 6 + head;
      if (head == 2) {
        EXPECT_EQ(lse[index], -kInfinity);
      } else {
        EXPECT_NEAR(lse[index], input.sink[head], 1e-6);
      }
      for (int i = 0; i < 512; ++i) ASSERT_EQ(out[index * 512 + i], 0.0f) << i;
    }
  }
}

// Below: against the formula in fp64 on the same bytes.
constexpr double kLowestCosine = 0.99999;       // of a head's output in bf16
constexpr double kLowestFp32Cosine = 0.999998;  // in fp32
constexpr double kLargestLseError = 1e-5;
// The tensor cores cut their fp32 sums off towards zero: O shrinks with the number of products in one sum.
constexpr double kTruncationPerKey = 4e-9;

// The worst head of all cases.
struct Worst {
  double cosine = 2.0, fp32_cosine = 2.0, lse_error = 0.0;
  std::string where, fp32_where, lse_where;
};

struct Closeness {
  double cosine, norm_ratio;
};

template <class Value>
Closeness closeness_of(const Value* actual, const double* expected, size_t dim) {
  double dot = 0.0, actual_norm = 0.0, expected_norm = 0.0;
  for (size_t i = 0; i < dim; ++i) {
    double a;
    if constexpr (std::is_same_v<Value, Bf16>) {
      a = to_float(actual[i]);
    } else {
      a = actual[i];
    }
    dot += a * expected[i];
    actual_norm += a * a;
    expected_norm += expected[i] * expected[i];
  }
  if (expected_norm == 0.0) return {actual_norm == 0.0 ? 1.0 : 0.0, 1.0};
  return {dot / std::sqrt(actual_norm * expected_norm), std::sqrt(actual_norm / expected_norm)};
}

// Runs a case in bf16 and in fp32 and keeps the rows and heads that are farthest off. Not a number is the worst of all. The error of an LSE
// above `largest_lse` may be as much larger as the LSE is: so are the logits' sums that the tensor cores cut off.
void compare_with_formula(Backend& gpu, const Case& input, const std::string& name, Worst& worst, double largest_lse = kInfinity) {
  const DeviceCase device(gpu, input);
  gpu.attention(device.params());
  gpu.attention(device.params(AttentionOutput::kFp32));
  const std::vector<Bf16> out = device.out();
  const std::vector<float> out_fp32 = device.out_fp32(), lse = device.lse();
  const test::DeviceArray<double> reference(gpu, out.size()), reference_lse(gpu, lse.size());
  test::attention_reference(device.params(), reference.data(), reference_lse.data());
  const std::vector<double> expected = reference.host(), expected_lse = reference_lse.host();
  const size_t dim = input.head_dim;
  int num_keys = 0;
  for (int row = 0; row < input.num_rows(); ++row) num_keys = std::max(num_keys, input.window + input.num_visible(row));
  for (size_t i = 0; i < lse.size(); ++i) {
    const std::string where = fmt::format("{}, row {}, head {}", name, i / input.num_heads, i % input.num_heads);
    const Closeness bf16 = closeness_of(out.data() + i * dim, expected.data() + i * dim, dim);
    const Closeness fp32 = closeness_of(out_fp32.data() + i * dim, expected.data() + i * dim, dim);
    const double lse_error = std::fabs(static_cast<double>(lse[i]) - expected_lse[i]);
    ASSERT_GE(bf16.cosine, kLowestCosine) << where;
    ASSERT_NEAR(bf16.norm_ratio, 1.0, 4e-3) << where;  // a rounding of half a step of 2^-8, twice in the rotated dims
    ASSERT_GE(fp32.cosine, kLowestFp32Cosine) << where;
    ASSERT_NEAR(fp32.norm_ratio, 1.0, 2e-5 + kTruncationPerKey * static_cast<double>(num_keys)) << where;
    const double largest_lse_error = kLargestLseError * std::max(1.0, std::fabs(expected_lse[i]) / largest_lse);
    ASSERT_LE(lse_error, largest_lse_error) << where << ": got " << lse[i] << ", expected " << expected_lse[i];
    if (bf16.cosine < worst.cosine) worst.cosine = bf16.cosine, worst.where = where;
    if (fp32.cosine < worst.fp32_cosine) worst.fp32_cosine = fp32.cosine, worst.fp32_where = where;
    if (lse_error > worst.lse_error) worst.lse_error = lse_error, worst.lse_where = where;
  }
}

void report(const Worst& worst) {
  std::printf("worst bf16 cosine 1 - %.3g: %s\n", 1.0 - worst.cosine, worst.where.c_str());
  std::printf("worst fp32 cosine 1 - %.3g: %s\n", 1.0 - worst.fp32_cosine, worst.fp32_where.c_str());
  std::printf("worst LSE error %.3g: %s\n", worst.lse_error, worst.lse_where.c_str());
}

TEST_F(AttentionGpu, ParityOfRandomSteps) {
  Worst worst;
  test::Random random(100);
  for (int i = 0; i < 300; ++i) {
    const int num_heads = 8 << random.below(5), head_dim = 64 << random.below(4);
    const int mode = random.below(3);  // the window, a list, all visible
    const int window = random.below(4) == 0 ? 1 + random.below(128) : 128;
    const int longest = num_heads * head_dim > 16384 ? 900 : 3000;  // positions
    const int ratio = mode == 0 ? 0 : (random.below(2) == 0 ? 4 : 128);
    const int num_selected = mode == 1 ? 1 + random.below(600) : 0;
    const int chunk = 9 + random.below(4);
    const Dims dims{num_heads, head_dim, window, window + chunk + random.below(30), ratio, num_selected};
    const int pages = (longest + chunk) / kPagePositions + 1;
    Case input = make_case(1000 + i, {{1, random.below(longest), 1 + random.below(8)}, {0, random.below(longest), chunk}, {2, 0, 1}}, 3,
                           pages, dims);
    if (random.below(10) == 0) std::fill(input.selected.begin(), input.selected.end(), -1);
    if (random.below(5) == 0) {  // some rows of them without keys
      for (int row = 0; row < 2 * input.num_rows(); ++row) input.key_counts.push_back(random.below(3) == 0 ? 0 : random.below(700));
    }
    const std::string name =
        fmt::format("step {}: {} heads × {}, window {}, ratio {}, {} selected", i, num_heads, head_dim, window, ratio, num_selected);
    compare_with_formula(gpu(), input, name, worst);
    if (HasFatalFailure()) return;
  }
  report(worst);
}

TEST_F(AttentionGpu, ParityOfKeyCounts) {
  struct {
    int num_keys, position, ratio, num_selected;
  } const lists[] = {{1, 0, 0, 0},        {127, 126, 0, 0},      {128, 127, 0, 0},        {129, 4095, 4, 1},
                     {640, 4095, 4, 512}, {1152, 8191, 4, 1024}, {8320, 1048575, 128, 0}, {262272, 1048575, 4, 0}};
  Worst worst;
  for (const auto& list : lists) {
    const int num_heads = list.num_keys > 100000 ? 8 : 64;
    const int pages = (list.position + 9) / kPagePositions + 1;
    const Dims dims{num_heads, 512, 128, 140, list.ratio, list.num_selected};
    for (const int num_rows : {1, 9}) {
      const Case input = make_case(list.num_keys + num_rows, {{0, list.position, num_rows}}, 1, pages, dims);
      compare_with_formula(gpu(), input, fmt::format("{} keys, {} rows", list.num_keys, num_rows), worst);
      if (HasFatalFailure()) return;
    }
  }
  report(worst);
}

// Tiles of entries, each of twice, then half, the magnitude of the one before: what a row's sums are relative to moves, or stays.
TEST_F(AttentionGpu, MaximaThatGrowAndFall) {
  constexpr int kEntries = 9 * 64, kRatio = 4;
  Worst worst;
  for (const bool grows : {true, false}) {
    for (const int num_rows : {1, 9}) {
      const int position = kRatio * kEntries - 1, pages = (position + num_rows) / kPagePositions + 1;
      Case input = make_case(40 + num_rows, {{0, position, num_rows}}, 1, pages, {64, 512, 128, 140, kRatio, 0});
      const int per_page = input.entries_per_page();
      for (int entry = 0; entry < kEntries; ++entry) {
        const int page = input.step.page_table[entry / per_page], step = entry / 64;
        uint8_t* scales = cpu::entry_bytes(input.layout(), input.pages.data(), page, per_page, entry % per_page).scales;
        for (int i = 0; i < input.layout().num_scales(); ++i) scales[i] = static_cast<uint8_t>(scales[i] + (grows ? step - 5 : 3 - step));
      }
      compare_with_formula(gpu(), input, fmt::format("{} rows of keys that {}", num_rows, grows ? "grow" : "fall"), worst, 16.0);
      if (HasFatalFailure()) return;
    }
  }
  report(worst);
}

}  // namespace
}  // namespace dsv4
