#include "text/token_table.h"

#include <algorithm>
#include <bit>
#include <functional>

namespace dsv4 {

TokenTable::TokenTable(const std::vector<std::string>& tokens) {
  size_t num_bytes = 0;
  for (const std::string& token : tokens) num_bytes += token.size();
  bytes_.reserve(num_bytes);
  offsets_.reserve(tokens.size() + 1);
  offsets_.push_back(0);
  for (const std::string& token : tokens) {
    bytes_ += token;
    offsets_.push_back(static_cast<uint32_t>(bytes_.size()));
  }
  slots_.assign(std::bit_ceil(std::max<size_t>(2, 2 * tokens.size())), -1);
  for (int32_t id = 0; id < size(); ++id) {
    size_t slot = std::hash<std::string_view>()((*this)[id]) & (slots_.size() - 1);
    while (slots_[slot] >= 0) slot = (slot + 1) & (slots_.size() - 1);
    slots_[slot] = id;
  }
}

std::string_view TokenTable::operator[](int32_t id) const {
  const uint32_t begin = offsets_[static_cast<size_t>(id)];
  return std::string_view(bytes_).substr(begin, offsets_[static_cast<size_t>(id) + 1] - begin);
}

int32_t TokenTable::find(std::string_view bytes) const {
  size_t slot = std::hash<std::string_view>()(bytes) & (slots_.size() - 1);
  while (slots_[slot] >= 0 && (*this)[slots_[slot]] != bytes) slot = (slot + 1) & (slots_.size() - 1);
  return slots_[slot];
}

}  // namespace dsv4
