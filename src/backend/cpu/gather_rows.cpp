#include <cstring>

#include "backend/cpu/ops.h"

namespace dsv4::cpu {

void gather_rows(const GatherRowsParams& params) {
  const auto* x = static_cast<const uint8_t*>(params.x);
  auto* out = static_cast<uint8_t*>(params.out);
  for (int i = 0; i < params.num_rows; ++i) {
    std::memcpy(out + i * params.row_bytes, x + params.rows[i] * params.row_bytes, static_cast<size_t>(params.row_bytes));
  }
}

}  // namespace dsv4::cpu
