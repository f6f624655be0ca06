#include "ops/compress.h"

#include <optional>

#include "backend/cpu/ops.h"
#include "cuda/support/device_step.h"
#include "cuda/support/differences.h"
#include "ops/groups.h"
#include "support/compare.h"
#include "support/random_data.h"
#include "support/reference.h"

namespace dsv4 {
namespace {

using test::DeviceArray;
using test::SequenceRows;

constexpr float kEps = 1e-6f;

// One compressor with the (a, gate) rows of every position of its sequences. State and pages live on the host between steps, so that either
// device can run the next one.
struct Layer {
  int ratio, dim, num_slots, pages_per_slot, state_tokens;
  EntryFormat format;
  std::vector<float> ape, freqs = test::plain_frequencies();
  std::vector<Bf16> weight;
  std::vector<std::vector<float>> a, gate;  // [slot] → [position, width]
  std::vector<float> state;
  std::vector<uint8_t> pages;

  Layer(int r, int d, EntryFormat f, int num_positions, int slots = 1)
      : ratio(r),
        dim(d),
        num_slots(slots),
        pages_per_slot(num_positions / kPagePositions + 1),
        state_tokens((r == 4 ? 8 : r) + 8),
        format(f) {
    test::Random random(static_cast<uint64_t>(r * 1000 + d));
    ape = test::random_floats(random, static_cast<size_t>(ratio) * width());
    weight = test::random_bf16(random, dim);
    for (int slot = 0; slot < num_slots; ++slot) {
      a.push_back(test::random_floats(random, static_cast<size_t>(num_positions) * width()));
      gate.push_back(test::random_floats(random, static_cast<size_t>(num_positions) * width(), 2.0f));
    }
    // What a new sequence finds must not matter: NaN would show in any result.
    state.assign(static_cast<size_t>(num_slots) * 2 * state_tokens * width(), std::numeric_limits<float>::quiet_NaN());
    pages.assign(num_slots * pages_per_slot * page_bytes(), 0xee);
  }

  int width() const { return ratio == 4 ? 2 * dim : dim; }
  int entries_per_page() const { return kPagePositions / ratio; }
  size_t page_bytes() const {
    return format == EntryFormat::kFp8 ? KvEntryLayout{dim}.page_bytes(entries_per_page())
                                       : IndexEntryLayout{dim}.page_bytes(entries_per_page());
  }
  CompressParams params(const float* kv, const float* gates, const BatchView& batch) const {
    CompressParams params{};
    params.kv = kv;
    params.gate = gates;
    params.batch = batch;
    params.format = format;
    params.ratio = ratio;
    params.dim = dim;
    params.state_tokens = state_tokens;
    params.eps = kEps;
    params.entries.entries_per_page = entries_per_page();
    return params;
  }
  std::vector<float> rows_of(const std::vector<std::vector<float>>& values, const std::vector<SequenceRows>& sequences) const {
    std::vector<float> rows;
    for (const SequenceRows& sequence : sequences) {
      const auto begin = values[sequence.slot].begin() + static_cast<ptrdiff_t>(sequence.first_position) * width();
      rows.insert(rows.end(), begin, begin + static_cast<ptrdiff_t>(sequence.num_rows) * width());
    }
    return rows;
  }
  std::vector<float> read(int slot, int entry) const {
    const int page = test::physical_page(slot, entry / entries_per_page(), num_slots, pages_per_slot);
    const uint8_t* bytes = pages.data() + page * page_bytes();
    const int idx = entry % entries_per_page();
    return format == EntryFormat::kFp8 ? test::read_fp8_entry(dim, bytes, entries_per_page(), idx)
                                       : test::read_fp4_entry(dim, bytes, entries_per_page(), idx);
  }

  void run_cpu(const std::vector<SequenceRows>& sequences) {
    const test::Step step(sequences, num_slots, pages_per_slot);
    const std::vector<float> kv = rows_of(a, sequences), gates = rows_of(gate, sequences);
    CompressParams compress = params(kv.data(), gates.data(), step.view());
    compress.ape = ape.data();
    compress.weight = weight.data();
    compress.freqs = freqs.data();
    compress.state = state.data();
    compress.entries.data = pages.data();
    cpu::compress(compress);
  }
};

// A layer's arrays on the device for one step.
struct DeviceLayer {
  DeviceArray<float> kv, gates, ape, freqs, state;
  DeviceArray<Bf16> weight;
  DeviceArray<uint8_t> pages;

  DeviceLayer(Backend& gpu, const Layer& layer, const std::vector<SequenceRows>& sequences, size_t padding_rows)
      : kv(gpu, padded(layer.rows_of(layer.a, sequences), padding_rows * layer.width())),
        gates(gpu, padded(layer.rows_of(layer.gate, sequences), padding_rows * layer.width())),
        ape(gpu, layer.ape),
        freqs(gpu, layer.freqs),
        state(gpu, layer.state),
        weight(gpu, layer.weight),
        pages(gpu, layer.pages) {}

  CompressParams params(const Layer& layer, const BatchView& batch) const {
    CompressParams params = layer.params(kv.data(), gates.data(), batch);
    params.ape = ape.data();
    params.weight = weight.data();
    params.freqs = freqs.data();
    params.state = state.data();
    params.entries.data = pages.data();
    return params;
  }
  void fetch(Layer& layer) const {
    layer.state = state.host();
    layer.pages = pages.host();
  }

 private:
  static std::vector<float> padded(std::vector<float> rows, size_t count) {
    rows.resize(rows.size() + count, 1.0f);
    return rows;
  }
};

class CompressGpu : public test::GpuTest {
 protected:
  static void run(Layer& layer, const std::vector<SequenceRows>& sequences, int padding_rows = 0) {
    const DeviceLayer device(gpu(), layer, sequences, static_cast<size_t>(padding_rows));
    test::Step step(sequences, layer.num_slots, layer.pages_per_slot);
    if (padding_rows > 0) step = test::with_padding(step, padding_rows);
    const test::DeviceStep gpu_step(gpu(), step);
    gpu().compress(device.params(layer, gpu_step.view()));
    device.fetch(layer);
  }

  // The state bit for bit. Entries: exp and the order of fp32 sums differ, which may put a bf16 rounding on the other side; rare, and no
  // more than a step of the entry's format.
  static void expect_close(const Layer& actual, const Layer& expected, const std::vector<int>& entries_of_slot) {
    EXPECT_TRUE(test::same_bytes(actual.state, expected.state));
    EXPECT_TRUE(test::differ_rarely(actual.pages, expected.pages, 200));
    for (size_t slot = 0; slot < entries_of_slot.size(); ++slot) {
      for (int entry = 0; entry < entries_of_slot[slot]; ++entry) {
        const std::vector<float> x = actual.read(static_cast<int>(slot), entry), y = expected.read(static_cast<int>(slot), entry);
        for (int i = 0; i < actual.dim; ++i) {
          const double step = actual.format == EntryFormat::kFp8 ? 0.13 * std::fabs(y[i]) + 0.01 : 2.0;
          ASSERT_TRUE(test::close_to(x[i], y[i], step)) << "slot " << slot << ", entry " << entry << ", dim " << i;
        }
      }
    }
  }
};

struct Kind {
  int ratio, dim;
  EntryFormat format;
};
constexpr Kind kKinds[] = {{4, 512, EntryFormat::kFp8},        {4, 128, EntryFormat::kFp4Hadamard}, {4, 64, EntryFormat::kFp8},
                           {4, 64, EntryFormat::kFp4Hadamard}, {128, 512, EntryFormat::kFp8},       {128, 256, EntryFormat::kFp8},
                           {128, 64, EntryFormat::kFp8}};

TEST_F(CompressGpu, ChunkByChunkLikeTheCpu) {
  constexpr int kPositions = 330;
  for (const Kind& kind : kKinds) {
    std::optional<Layer> whole;
    for (const int chunk : {330, 300, 130, 9, 3, 1}) {
      if (chunk <= 3 && kind.dim != 128 && kind.dim != 512) continue;  // many steps: only the dimensions of the real models
      SCOPED_TRACE(::testing::Message() << "ratio " << kind.ratio << ", dim " << kind.dim << ", chunks of " << chunk);
      Layer on_gpu(kind.ratio, kind.dim, kind.format, kPositions), on_cpu = on_gpu;
      for (int position = 0; position < kPositions; position += chunk) {
        const int num_rows = std::min(chunk, kPositions - position);
        run(on_gpu, {{0, position, num_rows}});
        on_cpu.run_cpu({{0, position, num_rows}});
        ASSERT_TRUE(test::same_bytes(on_gpu.state, on_cpu.state)) << "after position " << position + num_rows - 1;
      }
      expect_close(on_gpu, on_cpu, {kPositions / kind.ratio});
      // However a step is cut: the same bytes.
      if (!whole) whole = on_gpu;
      EXPECT_TRUE(test::same_bytes(on_gpu.pages, whole->pages));
      EXPECT_TRUE(test::same_bytes(on_gpu.state, whole->state));
    }
  }
}

TEST_F(CompressGpu, TheCpuContinuesWhereTheGpuStopped) {
  constexpr int kPositions = 400;
  for (const Kind& kind : kKinds) {
    SCOPED_TRACE(::testing::Message() << "ratio " << kind.ratio << ", dim " << kind.dim);
    Layer in_turns(kind.ratio, kind.dim, kind.format, kPositions), on_cpu = in_turns;
    constexpr int kChunks[] = {130, 7, 1, 125, 2, 1, 134};
    int position = 0;
    for (size_t i = 0; i < std::size(kChunks); position += kChunks[i], ++i) {
      if (i % 2 == 0) {
        run(in_turns, {{0, position, kChunks[i]}});
      } else {
        in_turns.run_cpu({{0, position, kChunks[i]}});
      }
      on_cpu.run_cpu({{0, position, kChunks[i]}});
    }
    ASSERT_EQ(position, kPositions);
    expect_close(in_turns, on_cpu, {kPositions / kind.ratio});
  }
}

TEST_F(CompressGpu, SequencesAndPaddingDoNotMix) {
  for (const Kind& kind : {kKinds[0], kKinds[1], kKinds[4]}) {
    SCOPED_TRACE(::testing::Message() << "ratio " << kind.ratio << ", dim " << kind.dim);
    Layer together(kind.ratio, kind.dim, kind.format, 400, 3), apart = together, on_cpu = together;
    const std::vector<std::vector<SequenceRows>> steps = {
        {{2, 0, 130}, {0, 0, 6}}, {{1, 0, 257}, {0, 6, 1}, {2, 130, 270}}, {{0, 7, 249}, {1, 257, 1}}};
    for (const auto& step : steps) {
      run(together, step, 5);
      on_cpu.run_cpu(step);
    }
    run(apart, {{0, 0, 256}});
    run(apart, {{1, 0, 258}});
    run(apart, {{2, 0, 400}});
    EXPECT_TRUE(test::same_bytes(together.pages, apart.pages));
    EXPECT_TRUE(test::same_bytes(together.state, apart.state));
    expect_close(together, on_cpu, {256 / kind.ratio, 258 / kind.ratio, 400 / kind.ratio});
  }
}

TEST_F(CompressGpu, RejectedTokensAreOverwritten) {
  for (const int ratio : {4, 128}) {
    Layer layer(ratio, 128, EntryFormat::kFp8, 300), straight = layer;
    run(layer, {{0, 0, 253}});
    const std::vector<float> accepted = layer.a[0];
    for (float& value : layer.a[0]) value = -value;
    run(layer, {{0, 253, 5}});
    layer.a[0] = accepted;
    run(layer, {{0, 253, 1}});
    run(layer, {{0, 254, 46}});
    run(straight, {{0, 0, 300}});
    EXPECT_TRUE(test::same_bytes(layer.pages, straight.pages)) << "ratio " << ratio;
  }
}

TEST_F(CompressGpu, AGroupEqualsItsCompressors) {
  const std::vector<SequenceRows> sequences = {{1, 0, 37}, {0, 0, 6}};
  Layer main_layer(4, 512, EntryFormat::kFp8, 40, 2), indexer(4, 128, EntryFormat::kFp4Hadamard, 40, 2);
  const DeviceLayer device_main(gpu(), main_layer, sequences, 0), device_indexer(gpu(), indexer, sequences, 0);
  const test::DeviceStep step(gpu(), test::Step(sequences, 2, 1));
  const CompressParams group[] = {device_main.params(main_layer, step.view()), device_indexer.params(indexer, step.view())};
  gpu().compress_group({group});
  Layer grouped_main = main_layer, grouped_indexer = indexer;
  device_main.fetch(grouped_main);
  device_indexer.fetch(grouped_indexer);
  run(main_layer, sequences);
  run(indexer, sequences);
  EXPECT_TRUE(test::same_bytes(grouped_main.pages, main_layer.pages));
  EXPECT_TRUE(test::same_bytes(grouped_main.state, main_layer.state));
  EXPECT_TRUE(test::same_bytes(grouped_indexer.pages, indexer.pages));
  EXPECT_TRUE(test::same_bytes(grouped_indexer.state, indexer.state));
}

TEST_F(CompressGpu, LargeGatesDoNotOverflow) {
  for (const Kind& kind : {kKinds[0], kKinds[4]}) {
    Layer on_gpu(kind.ratio, kind.dim, kind.format, 128);
    for (float& value : on_gpu.gate[0]) value = 500.0f + 20.0f * value;
    Layer on_cpu = on_gpu;
    run(on_gpu, {{0, 0, 128}});
    on_cpu.run_cpu({{0, 0, 128}});
    expect_close(on_gpu, on_cpu, {128 / kind.ratio});
  }
}

TEST_F(CompressGpu, NoRowsNothingToDoAndBadParamsAreRefused) {
  Layer layer(4, 64, EntryFormat::kFp8, 8);
  const Layer before = layer;
  run(layer, {});
  EXPECT_TRUE(test::same_bytes(layer.pages, before.pages));
  layer.ratio = 8;
  EXPECT_ANY_THROW(run(layer, {{0, 0, 1}}));
  layer.ratio = 4;
  layer.state_tokens = 7;
  EXPECT_ANY_THROW(run(layer, {{0, 0, 1}}));
}

}  // namespace
}  // namespace dsv4
