// Walsh–Hadamard rotation of one row (spec 2.6): a building block of compress and indexer_query.
#pragma once

#include "ops/hadamard.h"

namespace dsv4::cpu {

// x ← bf( x·M/√dim ) in place, M the Sylvester matrix in natural order; butterfly and scale in fp32. is_hadamard_dim(dim) must hold.
void hadamard(float* x, int dim);

}  // namespace dsv4::cpu
