// Weights from the checkpoint's row-major order into tiles (block/weight_tiles.h), and random weights. One CTA per tile: its rows are read
// in order (128 bytes each, 64 of FP4), scattered into shared memory and written out in order. Bytes are read once and written once; both
// are far faster than the link to the host that feeds them.
#include "backend/cuda/runtime/repack.h"

namespace dsv4::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTileRowBytes = 128;  // of a source row, in every layout but FP4
constexpr int kTileRowWords = kTileRowBytes / 4;
constexpr int kFp4WordsPerRow = 16;  // 4 steps × 4 lanes

// Rows that one launch repacks: a RepackParams for the kernel.
struct Source {
  const uint8_t* codes;
  const uint8_t* scales;
  int64_t row_bytes;  // of codes
  int num_rows;
  int tiles_per_row;
};

__device__ void write_tile(uint8_t* out, const uint8_t* tile, int bytes) {
  const auto* from = reinterpret_cast<const uint4*>(tile);
  auto* to = reinterpret_cast<uint4*>(out);
  for (int i = static_cast<int>(threadIdx.x); i < bytes / 16; i += kThreads) to[i] = from[i];
}

// Grid: tiles of the rows given. `out`: the tile of the first.
template <WeightLayout kLayout>
__global__ void __launch_bounds__(kThreads) repack_kernel(Source source, uint8_t* out) {
  __shared__ alignas(16) uint8_t tile[kTileBytes];
  const int tile_row = static_cast<int>(blockIdx.x) / source.tiles_per_row;
  const int tile_col = static_cast<int>(blockIdx.x) % source.tiles_per_row;
  for (int unit = static_cast<int>(threadIdx.x); unit < kTileRows * kTileRowWords; unit += kThreads) {
    const int row = unit / kTileRowWords;
    const int word_idx = unit % kTileRowWords;
    const int source_row = tile_row * kTileRows + row;
    uint32_t word = 0;
    if (source_row < source.num_rows) {
      const uint8_t* begin = source.codes + source_row * source.row_bytes + tile_col * kTileRowBytes;
      word = reinterpret_cast<const uint32_t*>(begin)[word_idx];
    }
    if constexpr (kLayout == WeightLayout::kBf16Tile) {
      *reinterpret_cast<uint32_t*>(tile + bf16_tile_offset(row, 2 * word_idx)) = word;
    } else {
      *reinterpret_cast<uint16_t*>(tile + fp8_tile_offset(row, 4 * word_idx)) = static_cast<uint16_t>(word);
      *reinterpret_cast<uint16_t*>(tile + fp8_tile_offset(row, 4 * word_idx + 2)) = static_cast<uint16_t>(word >> 16);
    }
  }
  __syncthreads();
  write_tile(out + int64_t{blockIdx.x} * kTileBytes, tile, kTileBytes);
}

// The same for FP4.
__global__ void __launch_bounds__(kThreads) repack_fp4_kernel(Source source, uint8_t* out) {
  __shared__ alignas(16) uint8_t tile[kFp4TileBytes];
  const int tile_row = static_cast<int>(blockIdx.x) / source.tiles_per_row;
  const int tile_col = static_cast<int>(blockIdx.x) % source.tiles_per_row;
  for (int unit = static_cast<int>(threadIdx.x); unit < kTileRows * kFp4WordsPerRow; unit += kThreads) {
    const int row = unit / kFp4WordsPerRow;
    const int step = unit % kFp4WordsPerRow / 4;
    const int q = unit % 4;
    const int source_row = tile_row * kTileRows + row;
    uint32_t word = 0;
    if (source_row < source.num_rows) {
      // Two columns a byte: 16 bytes of a step, of which this word has those at q, 4 + q (first k16 step), 8 + q and 12 + q.
      const uint8_t* begin = source.codes + source_row * source.row_bytes + tile_col * (kTileRowBytes / 2) + 16 * step + q;
      word = fp4_word(begin[0] | begin[4] << 8, begin[8] | begin[12] << 8);
    }
    *reinterpret_cast<uint32_t*>(tile + fp4_tile_word_offset(row, step, q)) = word;
  }
  if (threadIdx.x < kTileRows) {
    const int row = static_cast<int>(threadIdx.x);
    const int source_row = tile_row * kTileRows + row;
    uint32_t scales = 0;
    if (source_row < source.num_rows) {
      scales = reinterpret_cast<const uint32_t*>(source.scales)[int64_t{source_row} * source.tiles_per_row + tile_col];
    }
    *reinterpret_cast<uint32_t*>(tile + fp4_tile_scale_offset(row, 0)) = scales;
  }
  __syncthreads();
  write_tile(out + int64_t{blockIdx.x} * kFp4TileBytes, tile, kFp4TileBytes);
}

__global__ void __launch_bounds__(kThreads) fill_random_kernel(uint64_t* out, int64_t num_words, RandomWords words, uint64_t seed) {
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < num_words; i += stride) {
    out[i] = random_word(words, seed, static_cast<uint64_t>(i));
  }
}

__global__ void __launch_bounds__(kThreads)
    fill_random_fp4_kernel(uint64_t* out, int64_t num_words, RandomWords codes, RandomWords scales, uint64_t seed) {
  constexpr int kTileWords = kFp4TileBytes / 8;
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < num_words; i += stride) {
    const bool is_code = i % kTileWords < kFp4TileCodeBytes / 8;
    out[i] = random_word(is_code ? codes : scales, seed, static_cast<uint64_t>(i));
  }
}

LaunchConfig fill_config(const Context& context, int64_t num_words) {
  constexpr int kCtasPerSm = 8;
  const int64_t ctas = (num_words + kThreads - 1) / kThreads;
  const int64_t most = int64_t{context.num_sms} * kCtasPerSm;
  LaunchConfig config{dim3(static_cast<unsigned>(ctas < most ? ctas : most)), dim3(kThreads)};
  config.dependent_launch = false;
  return config;
}

}  // namespace

void repack(Context& context, const RepackParams& params) {
  constexpr const char* kOp = "repack";
  const int64_t num_ctas = num_tiles(params.layout, params.num_rows, params.cols);
  LaunchConfig config{dim3(static_cast<unsigned>(num_ctas)), dim3(kThreads)};
  config.dependent_launch = false;
  const bool fp4 = params.layout == WeightLayout::kFp4Tile;
  const int tile_row_bytes = fp4 ? kTileRowBytes / 2 : kTileRowBytes;
  const int per_row = tiles_per_row(params.layout, params.cols);
  const Source source{params.codes, params.scales, int64_t{per_row} * tile_row_bytes, params.num_rows, per_row};
  uint8_t* out = params.out + tile_offset(params.layout, params.cols, params.first_row, 0);
  switch (params.layout) {
    case WeightLayout::kFp8Tile:
      return launch(context, kOp, repack_kernel<WeightLayout::kFp8Tile>, config, source, out);
    case WeightLayout::kBf16Tile:
      return launch(context, kOp, repack_kernel<WeightLayout::kBf16Tile>, config, source, out);
    case WeightLayout::kFp4Tile:
      return launch(context, kOp, repack_fp4_kernel, config, source, out);
  }
}

void fill_random(Context& context, void* memory, int64_t bytes, RandomWords words, uint64_t seed) {
  const int64_t num_words = bytes / 8;
  launch(context, "fill_random", fill_random_kernel, fill_config(context, num_words), static_cast<uint64_t*>(memory), num_words, words,
         seed);
}

void fill_random_fp4_tiles(Context& context, void* tiles, int64_t num_tiles, RandomWords scales, uint64_t seed) {
  const int64_t num_words = num_tiles * (kFp4TileBytes / 8);
  launch(context, "fill_random", fill_random_fp4_kernel, fill_config(context, num_words), static_cast<uint64_t*>(tiles), num_words,
         kRandomFp4Codes, scales, seed);
}

}  // namespace dsv4::cuda
