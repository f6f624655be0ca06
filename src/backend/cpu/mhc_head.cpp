#include <vector>

#include "backend/cpu/mhc_mix.h"
#include "backend/cpu/ops.h"
#include "backend/cpu/parallel.h"
#include "base/error.h"

namespace dsv4::cpu {

void mhc_head(const MhcHeadParams& params) {
  const int hc = params.hc_mult;
  const int dim = params.hidden_size;
  require(hc >= 1 && hc <= kMaxHcMult, "mhc_head: hc_mult {}, expected 1 to {}", hc, kMaxHcMult);
  parallel_for(params.num_tokens, int64_t{hc} * hc * dim, [&](int64_t begin, int64_t end) {
    std::vector<float> v(static_cast<size_t>(hc) * dim);
    for (int64_t token = begin; token < end; ++token) {
      const Bf16* streams = params.streams + token * hc * dim;
      for (int k = 0; k < hc * dim; ++k) v[k] = to_float(streams[k]);
      float pre[kMaxHcMult];
      mhc_mixes(v.data(), params.fn, hc, hc * dim, params.norm_eps, pre);
      for (int i = 0; i < hc; ++i) pre[i] = sigmoid(pre[i] * params.scale[0] + params.base[i]) + params.hc_eps;
      mhc_collapse(v.data(), pre, hc, dim, params.x + token * dim);
    }
  });
}

}  // namespace dsv4::cpu
