// The end of a decode step on the device: each row's drawn token becomes its next input, one position on: token_ids[i] = max(drawn[i], 0),
// positions[i] += 1, rows[i].draw_idx += 1. Rows at a negative position are padding and stay as they are.
#pragma once

#include <cstdint>

#include "ops/sample.h"

namespace dsv4 {

struct AdvanceParams {
  const int32_t* drawn;  // [num_rows], from sample; −1 where nothing could be drawn
  int32_t* token_ids;    // [num_rows], out
  int32_t* positions;    // [num_rows], in place
  SampleRow* rows;       // [num_rows], in place
  int num_rows;
};

}  // namespace dsv4
