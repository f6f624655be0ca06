// The register maps of wgmma that ptx/wgmma.h states: accumulator D, and A in registers for bf16 and e4m3. Every element of A is set alone
// (one CTA each); the row where the result appears and the value of B it is multiplied by name its place. docs/kernels/attention.md has the
// maps.
#include "backend/cuda/block/swizzle.h"
#include "backend/cuda/ptx/convert.h"
#include "backend/cuda/ptx/copy.h"
#include "backend/cuda/ptx/wgmma.h"
#include "base/dtype.h"
#include "layout/probe.h"

namespace dsv4::cuda::layout {
namespace {

constexpr int kColumns = 8;  // N of the one-hot products

// D = A·B with A[m][0] = m, A[m][1] = 1, B[0][n] = 256, B[1][n] = n: every element of D is 256·m + n.
template <int kN>
__global__ void number_accumulator(float* registers) {
  __shared__ __align__(kSwizzleAtomBytes) uint8_t a[kRows * kSwizzleRowBytes];
  __shared__ __align__(kSwizzleAtomBytes) uint8_t b[kN * kSwizzleRowBytes];
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < kRows * 32; i += kThreads) reinterpret_cast<uint32_t*>(a)[i] = 0;
  for (int i = thread; i < kN * 32; i += kThreads) reinterpret_cast<uint32_t*>(b)[i] = 0;
  __syncthreads();
  // The first two elements of a row: one 32-bit word at the beginning of its chunk 0.
  if (thread < kRows) *reinterpret_cast<uint32_t*>(a + swizzled_offset(thread, 0)) = ptx::convert_bf16x2(1.0f, static_cast<float>(thread));
  if (thread < kN) *reinterpret_cast<uint32_t*>(b + swizzled_offset(thread, 0)) = ptx::convert_bf16x2(static_cast<float>(thread), 256.0f);
  ptx::fence_async_proxy();
  __syncthreads();
  float d[kN / 2] = {};
  ptx::wgmma_fence();
  ptx::wgmma_bf16_ss<kN>(d, swizzled_descriptor(ptx::shared_address(a)), swizzled_descriptor(ptx::shared_address(b)), false);
  ptx::wgmma_commit_group();
  ptx::wgmma_wait_group<0>();
  for (int i = 0; i < kN / 2; ++i) {
    ptx::wgmma_fence_operand(d[i]);
    registers[thread * (kN / 2) + i] = d[i];
  }
}

template <int kN>
void expect_accumulator_map() {
  const Memory<float> result(static_cast<size_t>(kThreads) * kN / 2);
  number_accumulator<kN><<<1, kThreads>>>(result.data());
  const std::vector<float> registers = result.host();
  std::printf("D [64, %d], (row, column) of d[0] … d[7]:\n", kN);
  for (const int thread : {0, 1, 4, 32}) {
    std::printf("  thread %2d:", thread);
    for (int i = 0; i < 8; ++i) {
      const int value = static_cast<int>(registers[static_cast<size_t>(thread) * (kN / 2) + i]);
      std::printf(" (%d, %d)", value / 256, value % 256);
    }
    std::printf("\n");
  }
  for (int thread = 0; thread < kThreads; ++thread) {
    for (int i = 0; i < kN / 2; ++i) {
      ASSERT_EQ(registers[static_cast<size_t>(thread) * (kN / 2) + i], 256.0f * accumulator_row(thread, i) + accumulator_column(thread, i))
          << "thread " << thread << ", d[" << i << "], N = " << kN;
    }
  }
}

TEST(LayoutWgmma, Accumulator) {
  if (!has_device()) GTEST_SKIP() << "no CUDA device on this machine";
  expect_accumulator_map<32>();
  expect_accumulator_map<64>();
}

__device__ void multiply(float (&d)[kColumns / 2], const uint32_t (&a)[4], uint64_t b, bool fp8) {
  if (fp8) {
    ptx::wgmma_e4m3_rs<kColumns>(d, a, b, false);
  } else {
    ptx::wgmma_bf16_rs<kColumns, false>(d, a, b, false);
  }
}

// CTA c sets element c of A alone: thread c / 4·E, register c / E mod 4, element c mod E of the E in a register. `one`: 1.0 in A's format.
// b: 8 rows of 32 bytes.
template <bool kFp8>
__global__ void place_one(const uint8_t* b, float* registers) {
  __shared__ __align__(kSwizzleAtomBytes) uint8_t tile[kColumns * kSwizzleRowBytes];
  constexpr int kElements = kFp8 ? 4 : 2;
  constexpr uint32_t kOne = kFp8 ? 0x38u : 0x3f80u;
  const int thread = static_cast<int>(threadIdx.x);
  const int element = static_cast<int>(blockIdx.x);
  for (int i = thread; i < kColumns * 32; i += kThreads) {
    const int row = i / 32;
    const int byte = i % 32;
    tile[swizzled_offset(row, byte / 16) + byte % 16] = b[i];
  }
  ptx::fence_async_proxy();
  __syncthreads();
  uint32_t a[4];
  for (int r = 0; r < 4; ++r) {
    const bool here = element / kElements == thread * 4 + r;
    a[r] = here ? kOne << (element % kElements * (32 / kElements)) : 0;
  }
  float d[kColumns / 2] = {};
  for (int r = 0; r < 4; ++r) ptx::wgmma_fence_operand(a[r]);
  ptx::wgmma_fence();
  multiply(d, a, swizzled_descriptor(ptx::shared_address(tile)), kFp8);
  ptx::wgmma_commit_group();
  ptx::wgmma_wait_group<0>();
  for (int i = 0; i < kColumns / 2; ++i) {
    ptx::wgmma_fence_operand(d[i]);
    registers[(static_cast<int64_t>(element) * kThreads + thread) * (kColumns / 2) + i] = d[i];
  }
}

// Asserts that A's element `e` of register r of a thread is (row, column) as ptx/wgmma.h says.
template <bool kFp8>
void expect_a_map() {
  constexpr int kElements = kFp8 ? 4 : 2;
  constexpr int kDepth = kFp8 ? 32 : 16;  // K
  // Row n of B: a value of its own for every k, the same in every column.
  std::vector<uint8_t> b(kColumns * 32);
  std::vector<float> values(kDepth);
  for (int k = 0; k < kDepth; ++k) {
    const uint8_t code = static_cast<uint8_t>(0x28 + k);
    const uint16_t bits = to_bf16(static_cast<float>(k + 1)).bits;
    values[k] = kFp8 ? e4m3_to_float(code) : static_cast<float>(k + 1);
    for (int n = 0; n < kColumns; ++n) {
      if (kFp8) {
        b[n * 32 + k] = code;
      } else {
        b[n * 32 + 2 * k] = static_cast<uint8_t>(bits & 0xff);
        b[n * 32 + 2 * k + 1] = static_cast<uint8_t>(bits >> 8);
      }
    }
  }
  const int num_elements = kThreads * 4 * kElements;
  const Memory<uint8_t> b_memory(b);
  const Memory<float> result(static_cast<size_t>(num_elements) * kThreads * kColumns / 2);
  place_one<kFp8><<<num_elements, kThreads>>>(b_memory.data(), result.data());
  const std::vector<float> all = result.host();
  std::printf("A %s [64, %d], (row, column) of the first element of a[0] … a[3]:\n", kFp8 ? "e4m3" : "bf16", kDepth);
  for (int element = 0; element < num_elements; ++element) {
    const int thread = element / (4 * kElements);
    const int r = element / kElements % 4;
    const int within = element % kElements;
    const size_t size = static_cast<size_t>(kThreads) * kColumns / 2;
    const std::vector<float> d =
        accumulator_matrix(std::vector<float>(all.begin() + element * size, all.begin() + (element + 1) * size), kColumns);
    int row = -1, column = -1, num_nonzero = 0;
    for (int m = 0; m < kRows; ++m) {
      for (int n = 0; n < kColumns; ++n) {
        const float value = d[m * kColumns + n];
        if (value == 0.0f) continue;
        ++num_nonzero;
        row = m;
        for (int k = 0; k < kDepth; ++k) column = values[k] == value ? k : column;
      }
    }
    if (within == 0 && (thread < 2 || thread == 4 || thread == 32)) {
      std::printf("%s(%d, %d)%s", r == 0 ? "  " : " ", row, column, r == 3 ? "\n" : "");
    }
    const int lane = thread % 32;
    ASSERT_EQ(num_nonzero, kColumns) << "element " << within << " of a[" << r << "] of thread " << thread;
    ASSERT_EQ(row, thread / 32 * 16 + lane / 4 + r % 2 * 8) << "element " << within << " of a[" << r << "] of thread " << thread;
    ASSERT_EQ(column, lane % 4 * kElements + within + r / 2 * (kDepth / 2))
        << "element " << within << " of a[" << r << "] of thread " << thread;
  }
}

TEST(LayoutWgmma, FragmentOfABf16) {
  if (!has_device()) GTEST_SKIP() << "no CUDA device on this machine";
  expect_a_map<false>();
}

TEST(LayoutWgmma, FragmentOfAE4m3) {
  if (!has_device()) GTEST_SKIP() << "no CUDA device on this machine";
  expect_a_map<true>();
}

}  // namespace
}  // namespace dsv4::cuda::layout
