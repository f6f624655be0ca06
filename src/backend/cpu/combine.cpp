#include <algorithm>
#include <vector>

#include "backend/cpu/ops.h"
#include "backend/cpu/parallel.h"

namespace dsv4::cpu {

void combine(const CombineParams& params) {
  const int num_selected = params.num_selected;
  const int hidden_size = params.hidden_size;
  std::vector<int> orders(static_cast<size_t>(params.num_tokens) * num_selected);
  parallel_for(params.num_tokens, static_cast<int64_t>(num_selected) * hidden_size, [&](int64_t token_begin, int64_t token_end) {
    for (int64_t t = token_begin; t < token_end; ++t) {
      const int32_t* experts = params.experts + t * num_selected;
      int* order = orders.data() + t * num_selected;  // the token's slots in ascending expert id
      for (int slot = 0; slot < num_selected; ++slot) {
        int place = slot;
        for (; place > 0 && experts[order[place - 1]] > experts[slot]; --place) order[place] = order[place - 1];
        order[place] = slot;
      }
      const Bf16* routed = params.routed + t * num_selected * hidden_size;
      constexpr int kChunk = 256;
      for (int begin = 0; begin < hidden_size; begin += kChunk) {
        const int count = std::min(kChunk, hidden_size - begin);
        float sums[kChunk] = {};
        for (int i = 0; i < num_selected; ++i) {
          if (experts[order[i]] < 0) continue;
          const Bf16* row = routed + static_cast<int64_t>(order[i]) * hidden_size + begin;
          for (int k = 0; k < count; ++k) sums[k] += to_float(row[k]);
        }
        const Bf16* shared = params.shared + t * hidden_size + begin;
        Bf16* out = params.out + t * hidden_size + begin;
        for (int k = 0; k < count; ++k) out[k] = to_bf16(sums[k] + to_float(shared[k]));
      }
    }
  });
}

}  // namespace dsv4::cpu
