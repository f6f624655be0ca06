// A column of a wgmma does not depend on N: the same bits with N = 8, 32, 64 and 128. Kernels that choose N by the batch rely on it.
#include <random>

#include "backend/cuda/block/swizzle.h"
#include "backend/cuda/ptx/copy.h"
#include "backend/cuda/ptx/wgmma.h"
#include "base/dtype.h"
#include "layout/probe.h"

namespace dsv4::cuda::layout {
namespace {

constexpr int kColumns = 128;
constexpr int kBlocks = 2;  // of 128 bytes of K
constexpr int kSteps = kBlocks * 4;
constexpr int kBlockBytes = kColumns * kSwizzleRowBytes;

// d [64, 128] = Σ of kSteps products, kN columns at a time. a: [step, thread, 4]; b: swizzled blocks of [128 rows, 128 bytes].
template <int kN, bool kFp8>
__global__ void multiply_columns(const uint32_t* a, const uint8_t* b, float* out) {
  __shared__ __align__(kSwizzleAtomBytes) uint8_t tile[kBlocks * kBlockBytes];
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < kBlocks * kBlockBytes / 4; i += kThreads) {
    reinterpret_cast<uint32_t*>(tile)[i] = reinterpret_cast<const uint32_t*>(b)[i];
  }
  ptx::fence_async_proxy();
  __syncthreads();
  for (int column = 0; column < kColumns; column += kN) {
    float d[kN / 2] = {};
    for (int step = 0; step < kSteps; ++step) {
      uint32_t fragment[4];
      for (int r = 0; r < 4; ++r) {
        fragment[r] = a[(step * kThreads + thread) * 4 + r];
        ptx::wgmma_fence_operand(fragment[r]);
      }
      const uint32_t offset = step / 4 * kBlockBytes + column * kSwizzleRowBytes + step % 4 * 32;
      const uint64_t descriptor = swizzled_descriptor(ptx::shared_address(tile) + offset);
      for (int i = 0; i < kN / 2; ++i) ptx::wgmma_fence_operand(d[i]);
      ptx::wgmma_fence();
      if constexpr (kFp8) {
        ptx::wgmma_e4m3_rs<kN>(d, fragment, descriptor, step > 0);
      } else {
        ptx::wgmma_bf16_rs<kN, false>(d, fragment, descriptor, step > 0);
      }
      ptx::wgmma_commit_group();
      ptx::wgmma_wait_group<0>();
      for (int i = 0; i < kN / 2; ++i) ptx::wgmma_fence_operand(d[i]);
    }
    for (int i = 0; i < kN / 2; ++i) {
      const int row = thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8;
      out[row * kColumns + column + i / 4 * 8 + thread % 4 * 2 + i % 2] = d[i];
    }
  }
}

template <int kN, bool kFp8>
std::vector<float> columns(const Memory<uint32_t>& a, const Memory<uint8_t>& b) {
  const Memory<float> out(static_cast<size_t>(kRows) * kColumns);
  multiply_columns<kN, kFp8><<<1, kThreads>>>(a.data(), b.data(), out.data());
  return out.host();
}

template <bool kFp8>
uint32_t random_word(std::mt19937& random) {
  std::normal_distribution<float> normal;
  uint32_t word = 0;
  for (int i = 0; i < (kFp8 ? 4 : 2); ++i) {
    const float value = normal(random);
    word |= kFp8 ? static_cast<uint32_t>(float_to_e4m3(value)) << (8 * i) : static_cast<uint32_t>(to_bf16(value).bits) << (16 * i);
  }
  return word;
}

template <bool kFp8>
void expect_columns_independent_of_n() {
  std::mt19937 random(kFp8 ? 1 : 2);
  std::vector<uint32_t> a_words(static_cast<size_t>(kSteps) * kThreads * 4);
  for (uint32_t& word : a_words) word = random_word<kFp8>(random);
  std::vector<uint8_t> b_bytes(static_cast<size_t>(kBlocks) * kBlockBytes);
  for (size_t i = 0; i < b_bytes.size(); i += 4) {
    const uint32_t word = random_word<kFp8>(random);
    for (int byte = 0; byte < 4; ++byte) b_bytes[i + byte] = static_cast<uint8_t>(word >> (8 * byte));
  }
  const Memory<uint32_t> a(a_words);
  const Memory<uint8_t> b(b_bytes);
  const std::vector<float> widest = columns<128, kFp8>(a, b);
  // The numbers are no trivial ones: all differ from zero, and they differ from each other.
  for (const float value : widest) ASSERT_NE(value, 0.0f);
  ASSERT_NE(widest[0], widest[1]);
  EXPECT_EQ((columns<8, kFp8>(a, b)), widest);
  EXPECT_EQ((columns<32, kFp8>(a, b)), widest);
  EXPECT_EQ((columns<64, kFp8>(a, b)), widest);
}

TEST(LayoutWgmma, ColumnsOfBf16DoNotDependOnN) {
  if (!has_device()) GTEST_SKIP() << "no CUDA device on this machine";
  expect_columns_independent_of_n<false>();
}

TEST(LayoutWgmma, ColumnsOfE4m3DoNotDependOnN) {
  if (!has_device()) GTEST_SKIP() << "no CUDA device on this machine";
  expect_columns_independent_of_n<true>();
}

}  // namespace
}  // namespace dsv4::cuda::layout
