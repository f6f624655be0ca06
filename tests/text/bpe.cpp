#include "text/bpe.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace dsv4 {
namespace {

std::array<int32_t, 256> identity_bytes() {
  std::array<int32_t, 256> ids;
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

// The textbook form: look for the best pair in the whole list, merge it, start over.
std::vector<int32_t> encode_slowly(const std::vector<BpeMerge>& merges, const std::string& piece) {
  std::vector<int32_t> ids;
  for (const char c : piece) ids.push_back(static_cast<uint8_t>(c));
  while (true) {
    size_t best_rank = merges.size();
    size_t best_position = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      for (size_t rank = 0; rank < best_rank; ++rank) {
        if (merges[rank].left == ids[i] && merges[rank].right == ids[i + 1]) {
          best_rank = rank;
          best_position = i;
        }
      }
    }
    if (best_rank == merges.size()) return ids;
    ids[best_position] = merges[best_rank].result;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(best_position) + 1);
  }
}

std::vector<int32_t> encode(const Bpe& bpe, const std::string& piece) {
  Bpe::Scratch scratch;
  std::vector<int32_t> ids;
  bpe.encode(piece, scratch, ids);
  return ids;
}

TEST(Bpe, MergesByRankThenFromTheLeft) {
  const Bpe bpe(identity_bytes(), {{'b', 'c', 256}, {'a', 'b', 257}, {'a', 'a', 258}, {257, 'c', 259}});
  EXPECT_EQ(encode(bpe, "abc"), (std::vector<int32_t>{'a', 256}));
  EXPECT_EQ(encode(bpe, "aaa"), (std::vector<int32_t>{258, 'a'}));
  EXPECT_EQ(encode(bpe, "ab"), (std::vector<int32_t>{257}));
  EXPECT_EQ(encode(bpe, "x"), (std::vector<int32_t>{'x'}));
  EXPECT_EQ(encode(bpe, ""), (std::vector<int32_t>{}));
}

TEST(Bpe, WithoutMergesGivesBytes) {
  const Bpe bpe(identity_bytes(), {});
  EXPECT_EQ(encode(bpe, "\xff\x01"), (std::vector<int32_t>{0xff, 0x01}));
}

TEST(Bpe, EqualsTheTextbookOnRandomMerges) {
  std::mt19937 random(11);
  for (int round = 0; round < 300; ++round) {
    std::vector<BpeMerge> merges;
    std::vector<int32_t> known = {'a', 'b', 'c'};
    std::set<std::pair<int32_t, int32_t>> pairs;
    for (int i = 0; i < 20; ++i) {
      const int32_t left = known[random() % known.size()];
      const int32_t right = known[random() % known.size()];
      if (!pairs.emplace(left, right).second) continue;
      const auto result = static_cast<int32_t>(256 + merges.size());
      merges.push_back({left, right, result});
      known.push_back(result);
    }
    const Bpe bpe(identity_bytes(), merges);
    for (int i = 0; i < 10; ++i) {
      std::string piece;
      for (size_t size = random() % 40; size > 0; --size) piece += "abcd"[random() % 4];
      EXPECT_EQ(encode(bpe, piece), encode_slowly(merges, piece)) << piece;
    }
  }
}

TEST(Bpe, TakesALongPiece) {
  // a^(2^20) with doubling merges: 20 levels, every byte merged on each.
  std::vector<BpeMerge> merges;
  int32_t last = 'a';
  for (int32_t level = 0; level < 20; ++level) {
    merges.push_back({last, last, 256 + level});
    last = 256 + level;
  }
  const Bpe bpe(identity_bytes(), merges);
  EXPECT_EQ(encode(bpe, std::string(size_t{1} << 20, 'a')), (std::vector<int32_t>{275}));
}

}  // namespace
}  // namespace dsv4
