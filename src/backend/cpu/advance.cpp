#include "ops/advance.h"

#include <algorithm>

#include "backend/cpu/ops.h"

namespace dsv4::cpu {

void advance(const AdvanceParams& params) {
  for (int i = 0; i < params.num_rows; ++i) {
    if (params.positions[i] < 0) continue;
    params.token_ids[i] = std::max(params.drawn[i], 0);
    ++params.positions[i];
    ++params.rows[i].draw_idx;
  }
}

}  // namespace dsv4::cpu
