#include <vector>

#include "backend/cpu/kv_codec.h"
#include "backend/cpu/ops.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/rms_norm.h"
#include "backend/cpu/rope.h"

namespace dsv4::cpu {

void kv_store(const KvStoreParams& params) {
  const int dim = params.head_dim;
  const KvEntryLayout layout{dim};
  const BatchView& batch = params.batch;
  parallel_for(batch.num_tokens, 16 * dim, [&](int64_t begin, int64_t end) {
    std::vector<float> x(dim);
    for (int64_t row = begin; row < end; ++row) {
      const int32_t position = batch.positions[row];
      if (position < 0) continue;  // padding
      for (int i = 0; i < dim; ++i) x[i] = to_float(params.kv[row * dim + i]);
      rms_norm_row(params.weight, dim, params.eps, x.data());
      rotate(make_rotation(position, params.freqs, kRopeDim), kRopeDim, x.data() + layout.nope_dim());
      const int32_t slot = batch.slots[batch.seq_idx[row]];
      const int ring_size = params.ring.ring_size;
      pack_kv_entry(layout, x.data(), entry_bytes(layout, params.ring.data, slot, ring_size, position % ring_size));
    }
  });
}

}  // namespace dsv4::cpu
