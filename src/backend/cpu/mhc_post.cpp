#include <algorithm>
#include <vector>

#include "backend/cpu/leaf.h"
#include "backend/cpu/ops.h"
#include "backend/cpu/parallel.h"

namespace dsv4::cpu {
namespace {

inline constexpr int kChunk = 64;  // elements whose sums stay in registers

// New stream j of one token. `comb_column` is comb[0][j]; the sum runs over the first index of comb, so it steps by hc.
template <int kBytes>
DSV4_INLINE void mix_stream_wide(const Bf16* y, float post, const float* comb_column, const float* old_streams, int hc, int dim,
                                 Bf16* stream) {
  for (int begin = 0; begin < dim; begin += kChunk) {
    const int count = std::min(kChunk, dim - begin);
    float sum[kChunk];
    for (int k = 0; k < count; ++k) sum[k] = post * to_float(y[begin + k]);
    for (int i = 0; i < hc; ++i) {
      const float* old_stream = old_streams + i * dim + begin;
      for (int k = 0; k < count; ++k) sum[k] += comb_column[i * hc] * old_stream[k];
    }
    for (int k = 0; k < count; ++k) stream[begin + k] = to_bf16(sum[k]);
  }
}

DSV4_LEAF(mix_stream, (const Bf16* y, float post, const float* comb_column, const float* old_streams, int hc, int dim, Bf16* stream),
          (y, post, comb_column, old_streams, hc, dim, stream))

}  // namespace

void mhc_post(const MhcPostParams& params) {
  const int hc = params.hc_mult;
  const int dim = params.hidden_size;
  parallel_for(params.num_tokens, int64_t{hc} * (hc + 1) * dim, [&](int64_t begin, int64_t end) {
    std::vector<float> old_streams(static_cast<size_t>(hc) * dim);
    for (int64_t token = begin; token < end; ++token) {
      Bf16* streams = params.streams + token * hc * dim;
      for (int k = 0; k < hc * dim; ++k) old_streams[k] = to_float(streams[k]);
      for (int j = 0; j < hc; ++j) {
        mix_stream(params.y + token * dim, params.post[token * hc + j], params.comb + token * hc * hc + j, old_streams.data(), hc, dim,
                   streams + j * dim);
      }
    }
  });
}

}  // namespace dsv4::cpu
