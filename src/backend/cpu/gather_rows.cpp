#include <cstring>

#include "backend/cpu/ops.h"

namespace dsv4::cpu {

void gather_rows(const GatherRowsParams& params) {
  const auto* x = static_cast<const uint8_t*>(params.x);
  auto* out = static_cast<uint8_t*>(params.out);
  for (int i = 0; i < params.num_rows; ++i) {
    const int64_t row = params.rows != nullptr ? params.rows[i] : i;
    const int64_t out_row = params.out_rows != nullptr ? params.out_rows[i] : i;
    if (row < 0 || out_row < 0) continue;
    std::memcpy(out + out_row * params.row_bytes, x + row * params.row_bytes, static_cast<size_t>(params.row_bytes));
  }
}

}  // namespace dsv4::cpu
