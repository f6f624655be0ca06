// The bytes of every token, by id and by content.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace dsv4 {

// An immutable list of byte strings in one block of memory, with an index from string to id. Where strings repeat, find() gives the lowest
// id.
class TokenTable {
 public:
  TokenTable() : TokenTable(std::vector<std::string>()) {}

  // tokens[id] are the bytes of token id; together they must stay below 4 GiB.
  explicit TokenTable(const std::vector<std::string>& tokens);

  int32_t size() const { return static_cast<int32_t>(offsets_.size()) - 1; }

  // The bytes of a token; `id` must be in [0, size()).
  std::string_view operator[](int32_t id) const;

  // The id of a string, -1 if it is no token.
  int32_t find(std::string_view bytes) const;

 private:
  std::string bytes_;
  std::vector<uint32_t> offsets_;  // [size + 1]
  std::vector<int32_t> slots_;     // open-addressing hash table of ids, a power of two, at most half full; -1 is free
};

}  // namespace dsv4
