// Which byte of a 128-byte swizzled tile wgmma reads for an element of B (or of A in shared memory), for the descriptors that kernels use:
// K-major (rows of K values) and N-major (rows of 64 N values, the value product of attention). Where a map is not the stated one, the
// program prints what it found and which of the plausible descriptors would give it.
#include "backend/cuda/block/swizzle.h"
#include "backend/cuda/ptx/copy.h"
#include "backend/cuda/ptx/wgmma.h"
#include "base/dtype.h"
#include "layout/probe.h"

namespace dsv4::cuda::layout {
namespace {

constexpr int kTileBytes = 32 * 1024;
constexpr int kSlackBytes = 12 * 1024;   // behind the tile, for descriptors on trial
constexpr uint32_t kFirstBits = 0x2000;  // of the bf16 that stands for index 0; all indices of a tile are finite, positive numbers

struct Descriptor {
  uint32_t begin, leading, stride;  // bytes
};

enum class Operand { kBf16, kBf16Transposed, kE4m3 };

// D = I·B, I the [64, K] piece of the identity in A's registers: row k of D is row k of B, as the hardware reads it from the tile.
template <Operand kOperand, int kN>
__global__ void read_b(const uint8_t* tile_bytes, Descriptor descriptor, float* registers) {
  __shared__ __align__(kSwizzleAtomBytes) uint8_t tile[kTileBytes + kSlackBytes];
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < kTileBytes + kSlackBytes; i += kThreads) tile[i] = i < kTileBytes ? tile_bytes[i] : 0;
  ptx::fence_async_proxy();
  __syncthreads();
  constexpr bool kFp8 = kOperand == Operand::kE4m3;
  constexpr int kElements = kFp8 ? 4 : 2;  // of a register
  constexpr int kDepth = kFp8 ? 32 : 16;
  constexpr uint32_t kOne = kFp8 ? 0x38u : 0x3f80u;
  uint32_t a[4] = {};
  for (int r = 0; r < 4; ++r) {
    const int row = thread / 32 * 16 + thread % 32 / 4 + r % 2 * 8;
    for (int e = 0; e < kElements; ++e) {
      const int column = thread % 4 * kElements + e + r / 2 * (kDepth / 2);
      if (row == column) a[r] |= kOne << (e * (32 / kElements));
    }
    ptx::wgmma_fence_operand(a[r]);
  }
  const uint64_t b = swizzled_descriptor(ptx::shared_address(tile) + descriptor.begin, descriptor.leading, descriptor.stride);
  float d[kN / 2] = {};
  ptx::wgmma_fence();
  if constexpr (kOperand == Operand::kBf16) {
    ptx::wgmma_bf16_rs<kN, false>(d, a, b, false);
  } else if constexpr (kOperand == Operand::kBf16Transposed) {
    ptx::wgmma_bf16_rs<kN, true>(d, a, b, false);
  } else {
    ptx::wgmma_e4m3_rs<kN>(d, a, b, false);
  }
  ptx::wgmma_commit_group();
  ptx::wgmma_wait_group<0>();
  for (int i = 0; i < kN / 2; ++i) {
    ptx::wgmma_fence_operand(d[i]);
    registers[thread * (kN / 2) + i] = d[i];
  }
}

template <Operand kOperand, int kN>
std::vector<float> product(const std::vector<uint8_t>& tile, const Descriptor& descriptor) {
  const Memory<uint8_t> memory(tile);
  const Memory<float> result(static_cast<size_t>(kThreads) * kN / 2);
  read_b<kOperand, kN><<<1, kThreads>>>(memory.data(), descriptor, result.data());
  return accumulator_matrix(result.host(), kN);
}

// Byte offset within the tile that the hardware reads for B[k][n]: [K, N].
template <Operand kOperand, int kN>
std::vector<int> observed_map(const Descriptor& descriptor) {
  constexpr bool kFp8 = kOperand == Operand::kE4m3;
  constexpr int kDepth = kFp8 ? 32 : 16;
  std::vector<int> map(static_cast<size_t>(kDepth) * kN, 0);
  std::vector<uint8_t> tile(kTileBytes);
  if constexpr (!kFp8) {
    for (int i = 0; i < kTileBytes / 2; ++i) {
      const uint32_t bits = kFirstBits + i;
      tile[2 * i] = static_cast<uint8_t>(bits & 0xff);
      tile[2 * i + 1] = static_cast<uint8_t>(bits >> 8);
    }
    const std::vector<float> d = product<kOperand, kN>(tile, descriptor);
    for (size_t i = 0; i < map.size(); ++i) map[i] = 2 * (to_bf16(d[i]).bits - static_cast<int>(kFirstBits));
  } else {
    // The index in three digits to the base 64; digit c is the code 8 + c (all are normal numbers).
    for (int digit = 0, weight = 1; digit < 3; ++digit, weight *= 64) {
      for (int i = 0; i < kTileBytes; ++i) tile[i] = static_cast<uint8_t>(8 + i / weight % 64);
      const std::vector<float> d = product<kOperand, kN>(tile, descriptor);
      for (size_t i = 0; i < map.size(); ++i) {
        int found = -1000;
        for (int code = 8; code < 72; ++code) found = e4m3_to_float(static_cast<uint8_t>(code)) == d[i] ? code - 8 : found;
        map[i] += found * weight;
      }
    }
  }
  return map;
}

void print_map(const std::vector<int>& map, int n, const char* title) {
  std::printf("%s: byte offsets of B[k][n], k = 0, 1, 8, n = 0, 1, 8, 16, …:\n", title);
  for (const int k : {0, 1, 8}) {
    std::printf("  k = %d:", k);
    for (int column = 0; column < n; column += column == 0 ? 1 : (column == 1 ? 7 : 8)) {
      std::printf(" %d", map[static_cast<size_t>(k) * n + column]);
    }
    std::printf("\n");
  }
}

// Asserts that B is read as `expected` says; where it is not, tries other descriptors and says which would do.
template <Operand kOperand, int kN>
void expect_map(const Descriptor& descriptor, const std::vector<int>& expected) {
  const std::vector<int> observed = observed_map<kOperand, kN>(descriptor);
  if (observed != expected) {
    print_map(expected, kN, "expected");
    print_map(observed, kN, "observed");
    const uint32_t offsets[] = {0, 16, 128, 1024, 2048, 4096, 8192};
    constexpr uint32_t kGroups = kOperand == Operand::kBf16Transposed ? (kN > 128 ? kN / 64 : 2) : kN / 8;  // at most so many of each
    for (const uint32_t leading : offsets) {
      for (const uint32_t stride : offsets) {
        if (descriptor.begin + (leading + stride) * (kGroups - 1) + kSwizzleAtomBytes > kTileBytes + kSlackBytes) continue;
        if (observed_map<kOperand, kN>({descriptor.begin, leading, stride}) == expected) {
          std::printf("leading %u, stride %u would be read as expected\n", leading, stride);
        }
      }
    }
  }
  ASSERT_EQ(observed, expected) << "N = " << kN << ", begin " << descriptor.begin << ", leading " << descriptor.leading << ", stride "
                                << descriptor.stride;
}

int tile_offset(int row, int byte) {
  const int chunk = byte / 16 ^ (row & 7);
  return row * 128 + chunk * 16 + byte % 16;
}

// K-major tile of N rows of 128 bytes: the four steps of 32 bytes inside the swizzle atom.
template <Operand kOperand, int kN>
void expect_k_major() {
  constexpr int kElementBytes = kOperand == Operand::kE4m3 ? 1 : 2;
  constexpr int kDepth = 32 / kElementBytes;
  for (int step = 0; step < 4; ++step) {
    std::vector<int> expected(static_cast<size_t>(kDepth) * kN);
    for (int k = 0; k < kDepth; ++k) {
      for (int n = 0; n < kN; ++n) expected[static_cast<size_t>(k) * kN + n] = tile_offset(n, step * 32 + k * kElementBytes);
    }
    expect_map<kOperand, kN>({static_cast<uint32_t>(step * 32), 16, kSwizzleAtomBytes}, expected);
  }
}

TEST(LayoutSwizzle, KMajorBf16) {
  if (!has_device()) GTEST_SKIP() << "no CUDA device on this machine";
  expect_k_major<Operand::kBf16, 8>();
  expect_k_major<Operand::kBf16, 32>();
  expect_k_major<Operand::kBf16, 64>();
  expect_k_major<Operand::kBf16, 128>();
}

TEST(LayoutSwizzle, KMajorE4m3) {
  if (!has_device()) GTEST_SKIP() << "no CUDA device on this machine";
  expect_k_major<Operand::kE4m3, 8>();
  expect_k_major<Operand::kE4m3, 32>();
  expect_k_major<Operand::kE4m3, 64>();
  expect_k_major<Operand::kE4m3, 128>();
}

// The value operand of attention: column blocks of 64 dims, each [64 keys, 128 bytes]; 16 keys of every step, N dims.
template <int kN>
void expect_n_major() {
  constexpr int kKeys = 64;
  constexpr int kBlockBytes = kKeys * 128;
  for (int step = 0; step < kKeys / 16; ++step) {
    std::vector<int> expected(static_cast<size_t>(16) * kN);
    for (int k = 0; k < 16; ++k) {
      for (int n = 0; n < kN; ++n) {
        expected[static_cast<size_t>(k) * kN + n] = n / 64 * kBlockBytes + tile_offset(step * 16 + k, n % 64 * 2);
      }
    }
    expect_map<Operand::kBf16Transposed, kN>({static_cast<uint32_t>(step * 16 * 128), kBlockBytes, kSwizzleAtomBytes}, expected);
  }
}

TEST(LayoutSwizzle, NMajorBf16) {
  if (!has_device()) GTEST_SKIP() << "no CUDA device on this machine";
  expect_n_major<64>();
  expect_n_major<128>();
  expect_n_major<256>();
}

// D = A·Iᵀ with A [64, 128 bytes] in shared memory and rows n of B = unit vector n: D[m][n] = A[m][16·step + n].
__global__ void read_a(uint32_t begin, float* registers) {
  __shared__ __align__(kSwizzleAtomBytes) uint8_t a[kRows * kSwizzleRowBytes];
  __shared__ __align__(kSwizzleAtomBytes) uint8_t b[32 * kSwizzleRowBytes];
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < kRows * 64; i += kThreads) reinterpret_cast<uint16_t*>(a)[i] = static_cast<uint16_t>(kFirstBits + i);
  for (int i = thread; i < 32 * 32; i += kThreads) reinterpret_cast<uint32_t*>(b)[i] = 0;
  __syncthreads();
  if (thread < 16) reinterpret_cast<uint16_t*>(b + swizzled_offset(thread, thread / 8))[thread % 8] = 0x3f80;
  ptx::fence_async_proxy();
  __syncthreads();
  float d[16] = {};
  ptx::wgmma_fence();
  ptx::wgmma_bf16_ss<32>(d, swizzled_descriptor(ptx::shared_address(a) + begin), swizzled_descriptor(ptx::shared_address(b)), false);
  ptx::wgmma_commit_group();
  ptx::wgmma_wait_group<0>();
  for (int i = 0; i < 16; ++i) {
    ptx::wgmma_fence_operand(d[i]);
    registers[thread * 16 + i] = d[i];
  }
}

TEST(LayoutSwizzle, KMajorA) {
  if (!has_device()) GTEST_SKIP() << "no CUDA device on this machine";
  for (int step = 0; step < 4; ++step) {
    const Memory<float> result(static_cast<size_t>(kThreads) * 16);
    read_a<<<1, kThreads>>>(step * 32, result.data());
    const std::vector<float> d = accumulator_matrix(result.host(), 32);
    for (int m = 0; m < kRows; ++m) {
      for (int k = 0; k < 16; ++k) {
        ASSERT_EQ(2 * (to_bf16(d[m * 32 + k]).bits - static_cast<int>(kFirstBits)), tile_offset(m, step * 32 + 2 * k))
            << "A[" << m << "][" << k << "] of step " << step;
      }
    }
  }
}

}  // namespace
}  // namespace dsv4::cuda::layout
