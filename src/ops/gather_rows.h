// Copies chosen rows: out[i, :] = x[rows[i], :]. The model uses it to keep only the rows whose logits are wanted.
#pragma once

#include <cstdint>

namespace dsv4 {

struct GatherRowsParams {
  const void* x;        // [*, row_bytes]
  const int32_t* rows;  // [num_rows]
  void* out;            // [num_rows, row_bytes]
  int num_rows;
  int64_t row_bytes;
};

}  // namespace dsv4
