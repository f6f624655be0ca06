// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a random function of a counter and a key, so that
// a draw can be repeated anywhere. Plain C++: kernels include this too.
#pragma once

#include <cstdint>

namespace dsv4 {

struct PhiloxWords {
  uint32_t word[4];
};

constexpr PhiloxWords philox4x32(PhiloxWords counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * counter.word[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * counter.word[2];
    counter = {{static_cast<uint32_t>(product1 >> 32) ^ counter.word[1] ^ key0, static_cast<uint32_t>(product1),
                static_cast<uint32_t>(product0 >> 32) ^ counter.word[3] ^ key1, static_cast<uint32_t>(product0)}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

// u in (0, 1] of one token in one draw: the upper 53 bits of the first two words of counter (token id, 0, draw_idx low, draw_idx high)
// under the key `seed`, plus one, times 2^-53.
constexpr double sample_uniform(int32_t token_id, uint64_t draw_idx, uint64_t seed) {
  const PhiloxWords words =
      philox4x32({{static_cast<uint32_t>(token_id), 0, static_cast<uint32_t>(draw_idx), static_cast<uint32_t>(draw_idx >> 32)}},
                 static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  const uint64_t bits = (uint64_t{words.word[0]} << 32 | words.word[1]) >> 11;
  return static_cast<double>(bits + 1) * 0x1p-53;
}

}  // namespace dsv4
