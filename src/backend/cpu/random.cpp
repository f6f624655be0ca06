#include "backend/cpu/random.h"

#include <cstring>

namespace dsv4::cpu {

void fill_random(void* memory, size_t bytes, RandomWords words, uint64_t seed) {
  const int64_t num_words = static_cast<int64_t>(bytes / sizeof(uint64_t));
  auto* out = static_cast<uint64_t*>(memory);
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < num_words; ++i) out[i] = random_word(words, seed, static_cast<uint64_t>(i));
  const size_t tail = bytes % sizeof(uint64_t);
  if (tail == 0) return;
  const uint64_t last = random_word(words, seed, static_cast<uint64_t>(num_words));
  std::memcpy(out + num_words, &last, tail);
}

}  // namespace dsv4::cpu
