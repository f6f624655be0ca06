#include <vector>

#include "backend/cpu/hadamard.h"
#include "backend/cpu/kv_codec.h"
#include "backend/cpu/ops.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/rope.h"
#include "base/error.h"

namespace dsv4::cpu {

void indexer_query(const IndexerQueryParams& params) {
  const int dim = params.index_head_dim;
  const IndexEntryLayout layout{dim};
  require(is_hadamard_dim(dim) && dim % kIndexerFp4Block == 0, "indexer_query: index_head_dim {}, expected a power of two from {} to {}",
          dim, kIndexerFp4Block, kMaxHadamardDim);
  require(params.rope_dim <= kRopeDim && params.rope_dim <= dim, "indexer_query: rope_dim {} of index_head_dim {}, expected at most {}",
          params.rope_dim, dim, kRopeDim);
  const int64_t work_per_row = 16LL * params.num_heads * dim;
  parallel_for(params.num_tokens, work_per_row, [&](int64_t begin, int64_t end) {
    std::vector<float> x(dim);
    for (int64_t row = begin; row < end; ++row) {
      const Rotation rotation = make_rotation(params.positions[row], params.freqs, params.rope_dim);
      for (int head = 0; head < params.num_heads; ++head) {
        const int64_t head_idx = row * params.num_heads + head;
        const Bf16* iq = params.iq + head_idx * dim;
        for (int i = 0; i < dim; ++i) x[i] = to_float(iq[i]);
        rotate(rotation, params.rope_dim, x.data() + dim - params.rope_dim);
        hadamard(x.data(), dim);
        pack_fp4_row(dim, x.data(), params.codes + head_idx * layout.value_bytes(), params.scales + head_idx * layout.scale_bytes());
      }
    }
  });
}

}  // namespace dsv4::cpu
