#include "backend/cuda/runtime/loader.h"

#include <cstring>

#include "backend/cpu/random.h"
#include "base/error.h"
#include "model/weights.h"
#include "ops/random_weights.h"
#include "support/error_of.h"
#include "support/gpu.h"
#include "support/random_data.h"
#include "support/reference_tiles.h"

namespace dsv4 {
namespace {

using cuda::WeightLayout;
using test::HostMatrix;

class LoaderGpu : public test::GpuTest {
 protected:
  void TearDown() override {
    if (!IsSkipped()) gpu().cancel_imports();
  }

  static std::vector<uint8_t> on_host(const void* device, size_t bytes) {
    std::vector<uint8_t> copy(bytes);
    gpu().copy_to_host(copy.data(), device, bytes);
    return copy;
  }
  static std::vector<uint8_t> tiles(WeightLayout layout, const void* device, int rows, int cols) {
    return on_host(device, static_cast<size_t>(cuda::packed_bytes(layout, rows, cols)));
  }
  std::vector<uint8_t> bytes(int64_t count) { return test::random_bytes(random_, static_cast<size_t>(count)); }
  // Neighbouring scales, which may stand in one row.
  std::vector<uint8_t> scales(int64_t count) { return test::random_ue8m0(random_, static_cast<size_t>(count), -7, 7); }

  test::Random random_{11};
};

struct Shape {
  int rows;
  int cols;
};
// One row, whole tiles, rows that end inside a tile, and matrices that take several slots.
constexpr Shape kShapes[] = {{1, 128}, {64, 128}, {65, 384}, {130, 256}, {2048, 512}, {41037, 1024}};

TEST_F(LoaderGpu, ArraysAsTheyAre) {
  for (int64_t size : {1, 7, 256, 100003, 50 << 20}) {
    const std::vector<uint8_t> array = bytes(size + 3);
    const void* device = gpu().import_weight(array.data() + 3, static_cast<size_t>(size));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(device) % 256, 0u);
    gpu().finish_imports();
    EXPECT_TRUE(std::equal(array.begin() + 3, array.end(), on_host(device, static_cast<size_t>(size)).begin())) << size;
  }
}

TEST_F(LoaderGpu, Fp8) {
  for (const auto& [rows, cols] : kShapes) {
    const std::vector<uint8_t> codes = bytes(int64_t{rows} * cols + 1);  // the file's tensors need not be aligned
    const int num_scales = ceil_div(rows, 128) * ceil_div(cols, 128);
    const std::vector<uint8_t> scale = bytes(num_scales);
    const Fp8Weight weight = gpu().import_fp8({codes.data() + 1, scale.data(), rows, cols});
    gpu().finish_imports();
    EXPECT_EQ(weight.rows, rows);
    EXPECT_EQ(weight.cols, cols);
    EXPECT_EQ(tiles(WeightLayout::kFp8Tile, weight.codes, rows, cols), test::reference_fp8_tiles({codes.data() + 1, rows, cols})) << rows;
    EXPECT_EQ(on_host(weight.scales, scale.size()), scale) << rows;
  }
}

TEST_F(LoaderGpu, Bf16) {
  for (const auto& [rows, whole_cols] : kShapes) {
    const int cols = whole_cols - 64;  // odd numbers of tiles too
    const std::vector<uint8_t> values = bytes(int64_t{rows} * cols * 2);
    const Bf16Weight weight = gpu().import_bf16({reinterpret_cast<const Bf16*>(values.data()), rows, cols});
    gpu().finish_imports();
    EXPECT_EQ(tiles(WeightLayout::kBf16Tile, weight.data, rows, cols), test::reference_bf16_tiles({values.data(), rows, cols, 2})) << rows;
  }
}

TEST_F(LoaderGpu, Fp4Experts) {
  for (const auto& [rows, cols] : kShapes) {
    const std::vector<uint8_t> codes = bytes(int64_t{rows} * cols / 2 + 1);
    const std::vector<uint8_t> scale = scales(int64_t{rows} * cols / 32);
    const ExpertMatrix matrix = gpu().import_expert({codes.data() + 1, scale.data()}, ExpertFormat::kFp4, rows, cols);
    gpu().finish_imports();
    EXPECT_EQ(tiles(WeightLayout::kFp4Tile, matrix.codes, rows, cols),
              test::reference_fp4_tiles(codes.data() + 1, scale.data(), rows, cols))
        << rows;
  }
}

TEST_F(LoaderGpu, Fp8Experts) {
  const std::vector<uint8_t> codes = bytes(256 * 128);
  const std::vector<uint8_t> scale = bytes(2);
  const ExpertMatrix matrix = gpu().import_expert({codes.data(), scale.data()}, ExpertFormat::kFp8, 256, 128);
  gpu().finish_imports();
  EXPECT_EQ(tiles(WeightLayout::kFp8Tile, matrix.codes, 256, 128), test::reference_fp8_tiles({codes.data(), 256, 128}));
  EXPECT_EQ(on_host(matrix.scales, 2), scale);
}

TEST_F(LoaderGpu, ManyImportsAtOnce) {
  constexpr int kNumExperts = 300;
  std::vector<std::vector<uint8_t>> codes, scale;
  std::vector<ExpertMatrix> matrices;
  for (int i = 0; i < kNumExperts; ++i) {
    codes.push_back(bytes(256 * 1024 / 2));
    scale.push_back(scales(256 * 1024 / 32));
    matrices.push_back(gpu().import_expert({codes.back().data(), scale.back().data()}, ExpertFormat::kFp4, 256, 1024));
  }
  int64_t bytes_done = -1;
  gpu().set_import_progress([&](int64_t done) {
    EXPECT_GE(done, bytes_done);
    bytes_done = done;
  });
  gpu().finish_imports();
  gpu().set_import_progress({});
  EXPECT_LE(bytes_done, kNumExperts * (256 * 1024 / 2 + 256 * 1024 / 32));
  for (size_t i = 0; i < kNumExperts; ++i) {
    ASSERT_EQ(tiles(WeightLayout::kFp4Tile, matrices[i].codes, 256, 1024),
              test::reference_fp4_tiles(codes[i].data(), scale[i].data(), 256, 1024))
        << i;
  }
}

TEST_F(LoaderGpu, ColumnsThatFillNoTileAreRefused) {
  const std::vector<uint8_t> data(64 * 192 * 2);
  EXPECT_EQ(test::error_of([&] {
              gpu().import_fp8({data.data(), data.data(), 64, 192});
            }),
            "a weight matrix of shape [64,192]: expected columns in multiples of 128");
  EXPECT_EQ(test::error_of([&] {
              gpu().import_bf16({reinterpret_cast<const Bf16*>(data.data()), 64, 96});
            }),
            "a weight matrix of shape [64,96]: expected columns in multiples of 64");
}

TEST_F(LoaderGpu, CancelledImportsLeaveNothingBehind) {
  {
    const std::vector<uint8_t> array = bytes(60 << 20);
    gpu().import_weight(array.data(), array.size());
    gpu().cancel_imports();
  }
  const std::vector<uint8_t> array = bytes(1000);
  const void* device = gpu().import_weight(array.data(), array.size());
  gpu().finish_imports();
  EXPECT_EQ(on_host(device, array.size()), array);
}

class MiniOnGpu : public LoaderGpu {
 protected:
  const TensorView& tensor(const std::string& name) const { return checkpoint_.tensor(name); }
  std::vector<uint8_t> expected(const std::string& name) const {
    const auto* data = static_cast<const uint8_t*>(tensor(name).data);
    return {data, data + tensor(name).bytes};
  }
  HostMatrix matrix(const std::string& name) const {
    const TensorView& view = tensor(name);
    return {static_cast<const uint8_t*>(view.data), static_cast<int>(view.shape[0]), static_cast<int>(view.shape[1]),
            static_cast<int>(dtype_bytes(view.dtype))};
  }
  void expect_fp8(const Fp8Weight& weight, const std::string& name) const {
    EXPECT_EQ(tiles(WeightLayout::kFp8Tile, weight.codes, weight.rows, weight.cols), test::reference_fp8_tiles(matrix(name + ".weight")))
        << name;
    EXPECT_EQ(on_host(weight.scales, tensor(name + ".scale").bytes), expected(name + ".scale")) << name;
  }
  void expect_bf16(const Bf16Weight& weight, const std::string& name) const {
    EXPECT_EQ(tiles(WeightLayout::kBf16Tile, weight.data, weight.rows, weight.cols), test::reference_bf16_tiles(matrix(name + ".weight")))
        << name;
  }
  void expect_array(const void* array, const std::string& name) const {
    EXPECT_EQ(on_host(array, tensor(name).bytes), expected(name)) << name;
  }

  Checkpoint checkpoint_ = Checkpoint::open(DSV4_SOURCE_DIR "/tests/data/mini");
};

TEST_F(MiniOnGpu, EveryKindOfTensorIsInItsPlace) {
  int64_t last_done = 0, last_total = 0;
  const ModelWeights weights = load_weights(checkpoint_, gpu(), [&](int64_t done, int64_t total) {
    last_done = done;
    last_total = total;
  });
  EXPECT_EQ(last_done, checkpoint_.tensor_bytes());
  EXPECT_EQ(last_total, checkpoint_.tensor_bytes());
  expect_array(weights.embed, "embed.weight");
  expect_bf16(weights.head.head, "head");
  expect_array(weights.head.norm, "norm.weight");
  expect_array(weights.head.hc.fn, "hc_head_fn");
  const LayerWeights& csa = weights.layers[3];
  expect_fp8(csa.attn.wq_a, "layers.3.attn.wq_a");
  expect_fp8(csa.attn.wo_b, "layers.3.attn.wo_b");
  expect_fp8(csa.attn.indexer.wq_b, "layers.3.attn.indexer.wq_b");
  expect_bf16(csa.attn.indexer.weights_proj, "layers.3.attn.indexer.weights_proj");
  expect_bf16(csa.attn.compressor.wkv, "layers.3.attn.compressor.wkv");
  expect_array(csa.attn.compressor.ape, "layers.3.attn.compressor.ape");
  expect_array(csa.attn.sink, "layers.3.attn.attn_sink");
  EXPECT_EQ(tiles(WeightLayout::kFp8Tile, csa.attn.wo_a.codes, csa.attn.wo_a.rows, csa.attn.wo_a.cols),
            test::reference_fp8_tiles(matrix("layers.3.attn.wo_a.weight")));
  expect_array(csa.moe.gate.data, "layers.3.ffn.gate.weight");
  expect_array(csa.moe.bias, "layers.3.ffn.gate.bias");
  expect_array(weights.layers[0].moe.tid2eid, "layers.0.ffn.gate.tid2eid");
  expect_fp8(csa.moe.shared_w2, "layers.3.ffn.shared_experts.w2");
  ASSERT_NE(weights.mtp, nullptr);
  expect_fp8(weights.mtp->e_proj, "mtp.0.e_proj");

  std::vector<ExpertMatrix> table(static_cast<size_t>(csa.moe.num_experts));
  gpu().copy_to_host(table.data(), csa.moe.w2, table.size() * sizeof(ExpertMatrix));
  const ModelConfig& config = checkpoint_.config();
  for (size_t i = 0; i < table.size(); ++i) {
    const std::string name = fmt::format("layers.3.ffn.experts.{}.w2", i);
    EXPECT_EQ(tiles(WeightLayout::kFp4Tile, table[i].codes, config.hidden_size, config.moe_intermediate_size),
              test::reference_fp4_tiles(tensor(name + ".weight").as<uint8_t>(), tensor(name + ".scale").as<uint8_t>(), config.hidden_size,
                                        config.moe_intermediate_size))
        << name;
  }
}

TEST_F(LoaderGpu, RandomWordsAreThoseOfTheCpu) {
  constexpr int kRows = 301, kCols = 128;
  const std::vector<uint8_t> device = on_host(gpu().random_table(kRows, kCols, 0.5, 77), kRows * kCols * 2);
  std::vector<uint64_t> words(kRows * kCols * 2 / 8);
  cpu::fill_random(words.data(), words.size() * 8, random_bf16_values(0.5), 77);
  EXPECT_EQ(std::memcmp(device.data(), words.data(), device.size()), 0);
}

TEST_F(LoaderGpu, RandomFp4TilesKeepTheirScales) {
  const ExpertMatrix matrix = gpu().random_expert(ExpertFormat::kFp4, 192, 256, 5);
  const std::vector<uint8_t> packed = tiles(WeightLayout::kFp4Tile, matrix.codes, 192, 256);
  const auto low = static_cast<uint8_t>(random_scales(256, kRandomFp4Deviation).base);
  std::vector<int> histogram(256);
  for (size_t tile = 0; tile < packed.size(); tile += cuda::kFp4TileBytes) {
    for (size_t i = 0; i < cuda::kFp4TileBytes; ++i) {
      const uint8_t byte = packed[tile + i];
      if (i < cuda::kFp4TileCodeBytes) {
        ++histogram[byte];
      } else {
        ASSERT_TRUE(byte == low || byte == low + 1) << static_cast<int>(byte);
      }
    }
  }
  for (int count : histogram) EXPECT_GT(count, 0);
}

}  // namespace
}  // namespace dsv4
