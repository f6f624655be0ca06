#include "backend/cuda/runtime/arena.h"

#include <cuda_runtime.h>

#include <algorithm>

#include "backend/cuda/runtime/check.h"
#include "base/error.h"

namespace dsv4::cuda {
namespace {

constexpr size_t kMib = size_t{1} << 20;
constexpr size_t kMinChunkBytes = 32 * kMib;
constexpr size_t kMaxChunkBytes = 1024 * kMib;
// The last chunk leaves at most one part in so many of the device's free memory unused.
constexpr size_t kFreeShare = 64;

}  // namespace

Arena::~Arena() {
  for (const Chunk& chunk : chunks_) cudaFree(chunk.memory);
}

uint8_t* Arena::allocate(size_t bytes) {
  const size_t wanted = arena_bytes(bytes);
  // Small arrays fill what large ones left at the ends of chunks.
  const auto fitting =
      std::find_if(chunks_.begin(), chunks_.end(), [wanted](const Chunk& chunk) { return chunk.bytes - chunk.used >= wanted; });
  Chunk& chunk = fitting != chunks_.end() ? *fitting : add_chunk(wanted);
  uint8_t* piece = chunk.memory + chunk.used;
  chunk.used += wanted;
  return piece;
}

Arena::Chunk& Arena::add_chunk(size_t bytes_wanted) {
  size_t free_bytes = 0;
  size_t device_bytes = 0;
  check(cudaMemGetInfo(&free_bytes, &device_bytes), "cudaMemGetInfo");
  // Chunks grow with what is there, so that a small model takes little.
  const size_t most = std::min(kMaxChunkBytes, std::max(kMinChunkBytes, free_bytes / kFreeShare));
  const size_t usual = std::clamp(total_bytes_, kMinChunkBytes, most) / kMib * kMib;
  Chunk chunk;
  chunk.bytes = std::max(bytes_wanted, usual);
  cudaError_t status = cudaMalloc(&chunk.memory, chunk.bytes);
  if (status == cudaErrorMemoryAllocation && chunk.bytes > bytes_wanted) {
    cudaGetLastError();
    chunk.bytes = bytes_wanted;
    status = cudaMalloc(&chunk.memory, chunk.bytes);
  }
  if (status != cudaSuccess) {
    cudaGetLastError();
    fail("cannot allocate {} bytes for weights on the GPU ({} are free, {} are in use by weights): {}", bytes_wanted, free_bytes,
         total_bytes_, cudaGetErrorString(status));
  }
  total_bytes_ += chunk.bytes;
  return chunks_.emplace_back(chunk);
}

}  // namespace dsv4::cuda
