#include <algorithm>

#include "backend/cpu/ops.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/vector.h"
#include "ops/weight.h"

namespace dsv4::cpu {

void quantize(const QuantizeParams& params) {
  const int num_blocks = ceil_div(params.dim, kFp8Block);
  parallel_for(params.num_rows, 4 * params.dim, [&](int64_t row_begin, int64_t row_end) {
    for (int64_t row = row_begin; row < row_end; ++row) {
      for (int block = 0; block < num_blocks; ++block) {
        const int begin = block * kFp8Block;
        const int64_t offset = row * params.dim + begin;
        quantize_fp8_block(params.x + offset, std::min(kFp8Block, params.dim - begin), params.codes + offset,
                           params.scales + row * num_blocks + block);
      }
    }
  });
}

}  // namespace dsv4::cpu
