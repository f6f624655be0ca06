#include "ops/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "backend/cpu/kv_codec.h"
#include "backend/cpu/ops.h"
#include "base/error.h"
#include "cuda/support/gpu.h"
#include "support/compare.h"
#include "support/error_of.h"
#include "support/random_data.h"
#include "support/reference.h"
#include "support/step.h"

namespace dsv4 {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Dims {
  int num_heads, head_dim, window, ring_size;
  int ratio = 0;         // 0: window only
  int num_selected = 0;  // 0: all visible entries
};

// Queries and caches of a step. Only entries that some row attends to are numbers; all other cache bytes are 0xff, NaN in every format.
struct Case {
  test::Step step;
  int num_slots, num_heads, head_dim, window, ring_size, ratio, num_selected;
  std::vector<uint8_t> ring, pages;
  std::vector<Bf16> q;
  std::vector<float> sink, freqs = test::plain_frequencies();
  std::vector<int32_t> selected;
  int min_new_tokens = 0, max_new_tokens = 0;

  Case(const test::Step& rows, int slots, const Dims& dims)
      : step(rows),
        num_slots(slots),
        num_heads(dims.num_heads),
        head_dim(dims.head_dim),
        window(dims.window),
        ring_size(dims.ring_size),
        ratio(dims.ratio),
        num_selected(dims.num_selected) {}

  KvEntryLayout layout() const { return {head_dim}; }
  int entries_per_page() const { return ratio == 0 ? 1 : kPagePositions / ratio; }
  int num_rows() const { return static_cast<int>(step.positions.size()); }
  size_t row_values() const { return static_cast<size_t>(num_heads) * head_dim; }
  int num_visible(int row) const { return ratio == 0 ? 0 : num_visible_entries(step.positions[row], ratio); }
};

// Lists with holes and repeats: −1 here and there, else any visible entry.
void select_entries(test::Random& random, Case& input) {
  input.selected.clear();
  for (int row = 0; row < input.num_rows(); ++row) {
    const int visible = input.num_visible(row);
    for (int i = 0; i < input.num_selected; ++i) {
      const bool none = i >= visible || random.below(8) == 0;
      input.selected.push_back(none ? -1 : random.below(visible));
    }
  }
}

void fill_entry(test::Random& random, const Case& input, std::vector<uint8_t>& bytes, int page, int entries, int entry) {
  const std::vector<Bf16> values = test::random_bf16(random, input.head_dim);
  cpu::pack_kv_entry(input.layout(), test::to_floats(values.data(), input.head_dim).data(),
                     cpu::entry_bytes(input.layout(), bytes.data(), page, entries, entry));
}

// Random numbers in the entries that the rows see (once each).
void fill_caches(test::Random& random, Case& input) {
  input.ring.assign(input.num_slots * input.layout().page_bytes(input.ring_size), 0xff);
  const int num_pages = input.num_slots * input.step.pages_per_slot;
  input.pages.assign(num_pages * input.layout().page_bytes(input.entries_per_page()), 0xff);
  std::vector<bool> ring_done(static_cast<size_t>(input.num_slots) * input.ring_size);
  std::vector<bool> entry_done(static_cast<size_t>(num_pages) * input.entries_per_page());
  for (int row = 0; row < input.num_rows(); ++row) {
    const int position = input.step.positions[row], seq = input.step.seq_idx[row], slot = input.step.slots[seq];
    for (int p = std::max(0, position - input.window + 1); p <= position; ++p) {
      const int place = p % input.ring_size;
      if (ring_done[slot * input.ring_size + place]) continue;
      ring_done[slot * input.ring_size + place] = true;
      fill_entry(random, input, input.ring, slot, input.ring_size, place);
    }
    const int count = input.num_selected > 0 ? input.num_selected : input.num_visible(row);
    for (int i = 0; i < count; ++i) {
      const int entry = input.num_selected > 0 ? input.selected[static_cast<size_t>(row) * count + i] : i;
      if (entry < 0) continue;
      const int page = input.step.page_table[seq * input.step.pages_per_slot + entry / input.entries_per_page()];
      const size_t index = static_cast<size_t>(page) * input.entries_per_page() + entry % input.entries_per_page();
      if (entry_done[index]) continue;
      entry_done[index] = true;
      fill_entry(random, input, input.pages, page, input.entries_per_page(), entry % input.entries_per_page());
    }
  }
}

Case make_case(uint64_t seed, const std::vector<test::SequenceRows>& sequences, int num_slots, int pages_per_slot, const Dims& dims) {
  test::Random random(seed);
  Case input(test::Step(sequences, num_slots, pages_per_slot), num_slots, dims);
  select_entries(random, input);
  fill_caches(random, input);
  input.q = test::random_bf16(random, input.num_rows() * input.row_values());
  input.sink = test::random_floats(random, dims.num_heads);
  return input;
}

// The params without pointers.
AttentionParams dims_of(const Case& input) {
  AttentionParams params{};
  params.num_heads = input.num_heads;
  params.head_dim = input.head_dim;
  params.window = input.window;
  params.ratio = input.ratio;
  params.num_selected = input.num_selected;
  params.softmax_scale = static_cast<float>(1.0 / std::sqrt(input.head_dim));
  params.min_new_tokens = input.min_new_tokens;
  params.max_new_tokens = input.max_new_tokens;
  return params;
}

std::vector<Bf16> run_cpu(const Case& input) {
  std::vector<Bf16> out(input.q.size());
  std::vector<uint8_t> ring = input.ring, pages = input.pages;
  AttentionParams params = dims_of(input);
  params.q = input.q.data();
  params.batch = input.step.view();
  params.ring = {ring.data(), input.ring_size};
  if (input.ratio > 0) params.entries = {pages.data(), input.entries_per_page()};
  if (input.num_selected > 0) params.selected = input.selected.data();
  params.sink = input.sink.data();
  params.freqs = input.freqs.data();
  params.out = out.data();
  cpu::attention(params);
  return out;
}

// A case in device memory.
class DeviceCase {
 public:
  DeviceCase(Backend& gpu, const Case& input)
      : input_(input),
        q_(gpu, input.q),
        token_ids_(gpu, input.step.token_ids),
        positions_(gpu, input.step.positions),
        seq_idx_(gpu, input.step.seq_idx),
        row_begin_(gpu, input.step.row_begin),
        slots_(gpu, input.step.slots),
        page_table_(gpu, input.step.page_table),
        selected_(gpu, input.selected.empty() ? std::vector<int32_t>{-1} : input.selected),
        ring_(gpu, input.ring),
        pages_(gpu, input.pages),
        sink_(gpu, input.sink),
        freqs_(gpu, input.freqs),
        out_(gpu, input.q.size()) {}

  AttentionParams params() const {
    AttentionParams params = dims_of(input_);
    params.q = q_.data();
    params.batch = input_.step.view();
    params.batch.token_ids = token_ids_.data();
    params.batch.positions = positions_.data();
    params.batch.seq_idx = seq_idx_.data();
    params.batch.row_begin = row_begin_.data();
    params.batch.slots = slots_.data();
    params.batch.page_table = page_table_.data();
    params.ring = {ring_.data(), input_.ring_size};
    if (input_.ratio > 0) params.entries = {pages_.data(), input_.entries_per_page()};
    if (input_.num_selected > 0) params.selected = selected_.data();
    params.sink = sink_.data();
    params.freqs = freqs_.data();
    params.out = out_.data();
    return params;
  }
  std::vector<Bf16> out() const { return out_.host(); }
  bool caches_are_unchanged() const { return ring_.host() == input_.ring && pages_.host() == input_.pages; }

 private:
  const Case& input_;
  test::DeviceArray<Bf16> q_;
  test::DeviceArray<int32_t> token_ids_, positions_, seq_idx_, row_begin_, slots_, page_table_, selected_;
  test::DeviceArray<uint8_t> ring_, pages_;
  test::DeviceArray<float> sink_, freqs_;
  test::DeviceArray<Bf16> out_;
};

std::vector<Bf16> run_gpu(Backend& gpu, const Case& input) {
  const DeviceCase device(gpu, input);
  gpu.attention(device.params());
  return device.out();
}

// Per row and head: cosine, and every value within two bf16 steps of the head's largest; over all, few values are not bit-equal (with
// probabilities in bf16 about every third would not be).
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
    ASSERT_GE(dot / std::sqrt(actual_norm * expected_norm), 0.99999) << "row " << row << ", head " << head;
    for (size_t i = begin; i < begin + dim; ++i) {
      num_different += actual[i].bits != expected[i].bits ? 1 : 0;
      ASSERT_LE(std::fabs(to_float(actual[i]) - to_float(expected[i])), 0x1p-6 * largest)
          << "row " << row << ", head " << head << ", dim " << i - begin << ": got " << to_float(actual[i]) << ", expected "
          << to_float(expected[i]);
    }
  }
  EXPECT_LE(num_different, expected.size() / 20 + 2) << "of " << expected.size() << " values";
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

TEST_F(AttentionGpu, HintsOnlySaveLaunches) {
  const Dims dims{8, 128, 128, 150, 4, 60};
  Case decode = make_case(11, {{0, 511, 1}, {1, 1000, 1}, {2, 77, 3}}, 3, 5, dims);
  Case prefill = make_case(12, {{0, 500, 9}, {1, 100, 20}}, 2, 5, dims);
  const auto num_kernels = [](const Case& input) {
    const DeviceCase device(gpu(), input);
    const AttentionParams params = device.params();
    const std::unique_ptr<Recording> recording = gpu().record([&] { gpu().attention(params); });
    gpu().synchronize();
    return recording->num_kernels();
  };
  const std::vector<Bf16> decode_out = run_gpu(gpu(), decode), prefill_out = run_gpu(gpu(), prefill);
  EXPECT_EQ(num_kernels(decode), 2);
  decode.min_new_tokens = 1;
  decode.max_new_tokens = 3;
  EXPECT_EQ(num_kernels(decode), 1);
  EXPECT_TRUE(test::same_bytes(run_gpu(gpu(), decode), decode_out));
  prefill.min_new_tokens = 9;
  prefill.max_new_tokens = 20;
  EXPECT_EQ(num_kernels(prefill), 1);
  EXPECT_TRUE(test::same_bytes(run_gpu(gpu(), prefill), prefill_out));
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
  // One key, no sink: the output is the key itself, whatever its scale.
  Case single = make_case(20, {{0, 0, 1}}, 1, 1, {1, 512, 1, 1});
  single.sink = {-kInfinity};
  const cpu::EntryBytes bytes = cpu::entry_bytes(KvEntryLayout{512}, single.ring.data(), 0, 1, 0);
  const uint8_t scales[7] = {0, 1, 60, 127, 135, 200, 227};
  std::copy(scales, scales + 7, bytes.scales);
  for (int i = 0; i < 448; ++i) bytes.values[i] = static_cast<uint8_t>((i % 16 + i / 64 * 16) | (i % 2 << 7));
  for (Bf16& value : single.q) value = to_bf16(0.0f);
  const std::vector<Bf16> out = run_gpu(gpu(), single);
  const std::vector<float> key = test::read_fp8_entry(512, single.ring.data(), 1, 0);
  // The first two blocks go below what a bf16 holds exactly.
  for (int i = 128; i < 448; ++i) ASSERT_EQ(to_float(out[i]), key[i]) << i;
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

}  // namespace
}  // namespace dsv4
