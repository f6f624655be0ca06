#include "backend/cpu/ops.h"
#include "backend/cpu/parallel.h"

namespace dsv4::cpu {

void mtp_join(const MtpJoinParams& params) {
  const int hidden_size = params.hidden_size;
  parallel_for(static_cast<int64_t>(params.num_tokens) * params.hc_mult, hidden_size, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const Bf16* e = params.e + row / params.hc_mult * hidden_size;
      const Bf16* g = params.g + row * hidden_size;
      Bf16* out = params.streams + row * hidden_size;
      for (int k = 0; k < hidden_size; ++k) out[k] = to_bf16(to_float(e[k]) + to_float(g[k]));
    }
  });
}

}  // namespace dsv4::cpu
