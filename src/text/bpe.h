// Byte-pair encoding of one piece by merge rank.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

namespace dsv4 {

// Two neighbouring tokens and the token they merge into.
struct BpeMerge {
  int32_t left;
  int32_t right;
  int32_t result;
};

// The merge rules of a tokenizer. Const use from several threads is safe, each with its own Scratch.
class Bpe {
 public:
  // Working memory of encode(), kept between calls to save allocations.
  struct Scratch {
    struct Symbol {
      int32_t id;
      int32_t previous;  // index, -1 at the start
      int32_t next;      // index, -1 at the end
    };
    std::vector<Symbol> symbols;
    std::vector<uint64_t> queue;
  };

  // `byte_ids[b]` is the token of byte b. A merge's rank is its index; pairs must be unique, ids not negative.
  Bpe(const std::array<int32_t, 256>& byte_ids, std::vector<BpeMerge> merges);

  // Appends the tokens of `piece` (below 2^31 bytes). Of all neighbours the pair with the lowest rank is merged first, the leftmost of
  // equals; O(n log n) for a piece of n bytes.
  void encode(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const;

 private:
  static constexpr uint32_t kNoRank = UINT32_MAX;

  uint32_t rank_of(int32_t left, int32_t right) const;
  void enqueue(Scratch& scratch, int32_t symbol_idx) const;

  std::array<int32_t, 256> byte_ids_;
  std::vector<BpeMerge> merges_;
  // Open-addressing hash table of ranks, keyed by the pair; a power of two, at most half full.
  std::vector<uint32_t> slots_;
  int shift_;
};

}  // namespace dsv4
