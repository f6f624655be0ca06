// Random weights in host memory.
#pragma once

#include <cstddef>

#include "ops/random_weights.h"

namespace dsv4::cpu {

// Fills `bytes` bytes at `memory` (8-byte aligned) with the words of stream `seed`.
void fill_random(void* memory, size_t bytes, RandomWords words, uint64_t seed);

}  // namespace dsv4::cpu
