#include "text/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <utility>

namespace dsv4 {
namespace {

// Fibonacci hashing: the upper bits of the product are well mixed.
size_t hash_pair(int32_t left, int32_t right, int shift) {
  const uint64_t key = (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
  return static_cast<size_t>((key * 0x9e3779b97f4a7c15ull) >> shift);
}

}  // namespace

Bpe::Bpe(const std::array<int32_t, 256>& byte_ids, std::vector<BpeMerge> merges) : byte_ids_(byte_ids), merges_(std::move(merges)) {
  const size_t num_slots = std::bit_ceil(std::max<size_t>(2, 2 * merges_.size()));
  slots_.assign(num_slots, kNoRank);
  shift_ = 64 - std::countr_zero(num_slots);
  for (size_t rank = 0; rank < merges_.size(); ++rank) {
    size_t slot = hash_pair(merges_[rank].left, merges_[rank].right, shift_);
    while (slots_[slot] != kNoRank) slot = (slot + 1) & (num_slots - 1);
    slots_[slot] = static_cast<uint32_t>(rank);
  }
}

uint32_t Bpe::rank_of(int32_t left, int32_t right) const {
  size_t slot = hash_pair(left, right, shift_);
  while (slots_[slot] != kNoRank) {
    const BpeMerge& merge = merges_[slots_[slot]];
    if (merge.left == left && merge.right == right) return slots_[slot];
    slot = (slot + 1) & (slots_.size() - 1);
  }
  return kNoRank;
}

// Queues the merge of a symbol with its right neighbour, if there is one. Entries order by rank, then by position.
void Bpe::enqueue(Scratch& scratch, int32_t symbol_idx) const {
  const Scratch::Symbol& symbol = scratch.symbols[static_cast<size_t>(symbol_idx)];
  if (symbol.next < 0) return;
  const uint32_t rank = rank_of(symbol.id, scratch.symbols[static_cast<size_t>(symbol.next)].id);
  if (rank == kNoRank) return;
  scratch.queue.push_back((static_cast<uint64_t>(rank) << 32) | static_cast<uint32_t>(symbol_idx));
  std::push_heap(scratch.queue.begin(), scratch.queue.end(), std::greater<>());
}

void Bpe::encode(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const {
  auto& [symbols, queue] = scratch;
  const auto num_bytes = static_cast<int32_t>(piece.size());
  symbols.resize(piece.size());
  queue.clear();
  for (int32_t i = 0; i < num_bytes; ++i) {
    const int32_t id = byte_ids_[static_cast<uint8_t>(piece[static_cast<size_t>(i)])];
    symbols[static_cast<size_t>(i)] = {id, i - 1, i + 1 < num_bytes ? i + 1 : -1};
  }
  for (int32_t i = 0; i < num_bytes; ++i) enqueue(scratch, i);

  while (!queue.empty()) {
    std::pop_heap(queue.begin(), queue.end(), std::greater<>());
    const BpeMerge& merge = merges_[queue.back() >> 32];
    const auto left_idx = static_cast<int32_t>(queue.back() & 0xffffffffu);
    queue.pop_back();
    Scratch::Symbol& left = symbols[static_cast<size_t>(left_idx)];
    // An entry is stale when one of its symbols has meanwhile merged with another.
    if (left.id != merge.left || left.next < 0 || symbols[static_cast<size_t>(left.next)].id != merge.right) continue;
    Scratch::Symbol& right = symbols[static_cast<size_t>(left.next)];
    left.id = merge.result;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = left_idx;
    if (left.previous >= 0) enqueue(scratch, left.previous);
    enqueue(scratch, left_idx);
  }
  for (int32_t i = 0; i >= 0 && i < num_bytes; i = symbols[static_cast<size_t>(i)].next) ids.push_back(symbols[static_cast<size_t>(i)].id);
}

}  // namespace dsv4
