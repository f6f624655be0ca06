#include <cstring>

#include "backend/cpu/ops.h"
#include "base/error.h"

namespace dsv4::cpu {

void embed(const EmbedParams& params) {
  const size_t row_bytes = static_cast<size_t>(params.hidden_size) * sizeof(Bf16);
  for (int t = 0; t < params.num_tokens; ++t) {
    require(params.token_ids[t] >= 0, "embed: row {} has token id {}, expected ≥ 0", t, params.token_ids[t]);
    const Bf16* row = params.table + static_cast<int64_t>(params.token_ids[t]) * params.hidden_size;
    for (int h = 0; h < params.hc_mult; ++h) {
      std::memcpy(params.streams + (static_cast<int64_t>(t) * params.hc_mult + h) * params.hidden_size, row, row_bytes);
    }
  }
}

}  // namespace dsv4::cpu
