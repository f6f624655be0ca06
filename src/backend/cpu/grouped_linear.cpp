#include "backend/cpu/ops.h"
#include "backend/cpu/product.h"
#include "base/error.h"

namespace dsv4::cpu {

void grouped_linear(const GroupedLinearParams& params) {
  const int64_t rows = params.weight.rows;
  const int cols = params.weight.cols;
  const int num_groups = params.num_groups;
  require(num_groups > 0 && params.weight.rows % num_groups == 0, "grouped_linear: {} rows in {} groups, expected a multiple", rows,
          num_groups);
  const int group_rows = params.weight.rows / num_groups;
  const int stride = padded(cols);
  const int block_tokens = std::min(params.num_tokens, kTokenBlock);
  const auto activations = std::make_unique_for_overwrite<float[]>(static_cast<size_t>(block_tokens) * num_groups * stride);
  const int group_tiles = ceil_div(group_rows, kRowTile);
  for (int block = 0; block < params.num_tokens; block += kTokenBlock) {
    const int num_tokens = std::min(kTokenBlock, params.num_tokens - block);
    parallel_for(static_cast<int64_t>(num_tokens) * num_groups, 4 * stride, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        load_bf16_row(params.x, static_cast<int64_t>(block) * num_groups + i, cols, kFp8PerWord, activations.get() + i * stride);
      }
    });
    // One loop over the row tiles of all groups; a tile never crosses from one group into the next.
    parallel_for(static_cast<int64_t>(num_groups) * group_tiles, tile_work(cols, num_tokens), [&](int64_t begin, int64_t end) {
      float sums[kTokenBlock][kRowTile];
      const float* x[kTokenBlock];
      for (int64_t i = begin; i < end; ++i) {
        const int group = static_cast<int>(i / group_tiles);
        const int first = static_cast<int>(i % group_tiles) * kRowTile;
        const int num_rows = std::min(kRowTile, group_rows - first);
        const int row_begin = group * group_rows + first;
        for (int t = 0; t < num_tokens; ++t) x[t] = activations.get() + (static_cast<int64_t>(t) * num_groups + group) * stride;
        multiply_tile(Fp8Rows{params.weight}, row_begin, num_rows, x, num_tokens, sums);
        for (int t = 0; t < num_tokens; ++t) {
          for (int r = 0; r < num_rows; ++r) params.out[(block + t) * rows + row_begin + r] = to_bf16(sums[t][r]);
        }
      }
    });
  }
}

}  // namespace dsv4::cpu
