// Selection (spec 2.7): the min(topk, visible) entries with the largest scores of each row, equal scores in favour of the later entry,
// written in ascending entry order and padded with −1. Rows with at most `topk` visible entries take them all and do not read scores.
#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace dsv4 {

struct TopkParams {
  const Bf16* scores;        // [row_end − row_begin, score_stride]
  const int32_t* positions;  // [num_tokens]
  int32_t* selected;         // [num_tokens, topk], rows [row_begin, row_end) written
  int64_t score_stride;
  int row_begin;
  int row_end;
  int ratio;
  int topk;
};

}  // namespace dsv4
