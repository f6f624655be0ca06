// cp.async.bulk brings a contiguous tile byte for byte, with either cache policy, and the barrier counts its bytes.
#include "backend/cuda/ptx/copy.h"
#include "layout/probe.h"

namespace dsv4::cuda::layout {
namespace {

constexpr int kTileBytes = 32 * 1024;
constexpr int kCopies = 4;

// Each CTA copies one tile in kCopies pieces, every second CTA with the streaming policy.
__global__ void copy_tile(const uint8_t* source, uint8_t* destination) {
  __shared__ __align__(128) uint8_t tile[kTileBytes];
  __shared__ uint64_t barrier;
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kTileBytes;
  if (thread == 0) {
    ptx::mbarrier_init(&barrier, 1);
    ptx::fence_barrier_init();
  }
  __syncthreads();
  if (thread == 0) {
    ptx::mbarrier_arrive_expect_tx(&barrier, kTileBytes);
    constexpr int kPiece = kTileBytes / kCopies;
    for (int offset = 0; offset < kTileBytes; offset += kPiece) {
      if (blockIdx.x % 2 == 0) {
        ptx::bulk_load(tile + offset, source + begin + offset, kPiece, &barrier);
      } else {
        ptx::bulk_load_streaming(tile + offset, source + begin + offset, kPiece, &barrier);
      }
    }
  }
  ptx::mbarrier_wait(&barrier, 0);
  for (int i = thread; i < kTileBytes; i += kThreads) destination[begin + i] = tile[i];
}

TEST(LayoutBulkCopy, ArrivesByteForByte) {
  if (!has_device()) GTEST_SKIP() << "no CUDA device on this machine";
  constexpr int kTiles = 4;
  std::vector<uint8_t> bytes(static_cast<size_t>(kTiles) * kTileBytes);
  uint32_t state = 1;
  for (uint8_t& byte : bytes) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<uint8_t>(state >> 24);
  }
  const Memory<uint8_t> source(bytes);
  const Memory<uint8_t> destination(bytes.size());
  copy_tile<<<kTiles, kThreads>>>(source.data(), destination.data());
  EXPECT_EQ(destination.host(), bytes);
}

}  // namespace
}  // namespace dsv4::cuda::layout
