// Copies chosen rows: out[out_rows[i], :] = x[rows[i], :]; a missing list counts 0, 1, …. Rows whose index is negative in either list are
// skipped. The model uses it to keep only the rows whose logits are wanted, and to keep logits by sequence slot.
#pragma once

#include <cstdint>

namespace dsv4 {

struct GatherRowsParams {
  const void* x;        // [*, row_bytes]
  const int32_t* rows;  // [num_rows], or nullptr
  void* out;            // [*, row_bytes]
  int num_rows;
  int64_t row_bytes;
  const int32_t* out_rows = nullptr;  // [num_rows], or nullptr
};

}  // namespace dsv4
