// Device memory for weights: many pieces from few large allocations.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace dsv4::cuda {

inline constexpr size_t kArenaAlignment = 256;

// Bytes of an array in the arena.
constexpr size_t arena_bytes(size_t bytes) {
  return (bytes + kArenaAlignment - 1) / kArenaAlignment * kArenaAlignment;
}

// Pieces live until the arena goes. Used from one thread; the current device must be the same at every call.
class Arena {
 public:
  Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena();

  // Aligned to kArenaAlignment, contents undefined; what lies behind `bytes` up to the next multiple of it belongs to the piece too. Throws
  // Error when the device has no such memory.
  uint8_t* allocate(size_t bytes);

 private:
  struct Chunk {
    uint8_t* memory = nullptr;
    size_t bytes = 0;
    size_t used = 0;
  };

  Chunk& add_chunk(size_t bytes_wanted);

  std::vector<Chunk> chunks_;
  size_t total_bytes_ = 0;
};

}  // namespace dsv4::cuda
