// ldmatrix and stmatrix: which element of an 8 × 8 matrix a lane's word holds. Attention's probabilities rest on it.
#include "backend/cuda/ptx/matrix.h"

#include "backend/cuda/ptx/mbarrier.h"
#include "layout/probe.h"

namespace dsv4::cuda::layout {
namespace {

constexpr int kMatrices = 4;
constexpr int kElements = kMatrices * 64;

// Element e of the four matrices is the number e, row after row. words[4·lane + i]: word i of the lane.
__global__ void load(uint32_t* words) {
  __shared__ __align__(16) uint16_t matrices[kElements];
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < kElements; i += 32) matrices[i] = static_cast<uint16_t>(i);
  __syncwarp();
  uint32_t mine[kMatrices];
  ptx::load_matrices(ptx::shared_address(matrices + 8 * lane), mine);
  for (int i = 0; i < kMatrices; ++i) words[4 * lane + i] = mine[i];
}

// Word i of lane l holds the numbers 8·l + 2·i and the next.
__global__ void store(uint16_t* elements) {
  __shared__ __align__(16) uint16_t matrices[kElements];
  const uint32_t lane = threadIdx.x;
  uint32_t words[kMatrices];
  for (uint32_t i = 0; i < kMatrices; ++i) words[i] = (8 * lane + 2 * i) | (8 * lane + 2 * i + 1) << 16;
  ptx::store_matrices(ptx::shared_address(matrices + 8 * lane), words);
  __syncwarp();
  for (uint32_t i = lane; i < kElements; i += 32) elements[i] = matrices[i];
}

TEST(LayoutMatrices, LoadGivesRowGAndColumns2Q) {
  if (!has_device()) GTEST_SKIP() << "no CUDA device on this machine";
  const Memory<uint32_t> words(4 * 32);
  load<<<1, 32>>>(words.data());
  const std::vector<uint32_t> loaded = words.host();
  for (uint32_t lane = 0; lane < 32; ++lane) {
    const uint32_t g = lane / 4, q = lane % 4;
    for (uint32_t i = 0; i < kMatrices; ++i) {
      const uint32_t low = 64 * i + 8 * g + 2 * q;
      EXPECT_EQ(loaded[4 * lane + i], low | (low + 1) << 16) << "lane " << lane << ", matrix " << i;
    }
  }
}

TEST(LayoutMatrices, StorePutsWordIToRowGColumns2Q) {
  if (!has_device()) GTEST_SKIP() << "no CUDA device on this machine";
  const Memory<uint16_t> elements(kElements);
  store<<<1, 32>>>(elements.data());
  const std::vector<uint16_t> stored = elements.host();
  for (int i = 0; i < kMatrices; ++i) {
    for (int row = 0; row < 8; ++row) {
      for (int column = 0; column < 8; ++column) {
        const int lane = 4 * row + column / 2;
        EXPECT_EQ(stored[64 * i + 8 * row + column], 8 * lane + 2 * i + column % 2)
            << "matrix " << i << ", row " << row << ", column " << column;
      }
    }
  }
}

}  // namespace
}  // namespace dsv4::cuda::layout
