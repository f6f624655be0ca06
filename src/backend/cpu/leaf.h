// Vector code for the leaf functions of the CPU ops. DSV4_LEAF builds a leaf once per instruction set (AVX-512, AVX2, baseline), chosen
// when the program is loaded. Every version works on the same 16 fp32 lanes in the same order and never contracts a·b+c, so they agree bit
// for bit; only the number of registers that hold the lanes differs.
#pragma once

#include <cstdint>

// DSV4_LEAF(name, (parameters), (arguments)) defines void name(parameters), which calls name_wide<bytes of a vector register>(arguments).
// Without multi-versioning (other compilers and processors; sanitizers, whose runtime is not ready when the dynamic linker picks a version)
// there is one version as wide as the compiler's target.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define DSV4_LEAF(name, parameters, arguments)                               \
  namespace {                                                                \
  __attribute__((target("arch=x86-64-v4"))) void name##_version parameters { \
    name##_wide<64> arguments;                                               \
  }                                                                          \
  __attribute__((target("arch=x86-64-v3"))) void name##_version parameters { \
    name##_wide<32> arguments;                                               \
  }                                                                          \
  __attribute__((target("default"))) void name##_version parameters {        \
    name##_wide<16> arguments;                                               \
  }                                                                          \
  }                                                                          \
  void name parameters {                                                     \
    name##_version arguments;                                                \
  }
#else
#if defined(__AVX512BW__)
#define DSV4_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define DSV4_VECTOR_BYTES 32
#else
#define DSV4_VECTOR_BYTES 16
#endif
#define DSV4_LEAF(name, parameters, arguments) \
  void name parameters {                       \
    name##_wide<DSV4_VECTOR_BYTES> arguments;  \
  }
#endif

#define DSV4_INLINE inline __attribute__((always_inline))

namespace dsv4::cpu {

// Registers of `kBytes`.
template <int kBytes>
struct Vec {
  typedef float F32 __attribute__((vector_size(kBytes)));
  typedef int32_t I32 __attribute__((vector_size(kBytes)));
  typedef uint32_t U32 __attribute__((vector_size(kBytes)));
  typedef int16_t I16 __attribute__((vector_size(kBytes)));
  typedef uint8_t QuarterU8 __attribute__((vector_size(kBytes / 4)));  // as many bytes as F32 has lanes
  static constexpr int kWidth = kBytes / 4;                            // fp32 lanes of a register
  static constexpr int kRegisters = 64 / kBytes;                       // registers of 16 fp32 lanes
};

// Loads and stores without alignment; by reference, since passing wide vectors by value depends on the instruction set. (memcpy would do,
// but gcc 12 then keeps arrays of vectors in memory.)
template <class Vector>
DSV4_INLINE void load(const void* memory, Vector& vector) {
  typedef Vector Unaligned __attribute__((aligned(1), may_alias));
  vector = *static_cast<const Unaligned*>(memory);
}
template <class Vector>
DSV4_INLINE void store(const Vector& vector, void* memory) {
  typedef Vector Unaligned __attribute__((aligned(1), may_alias));
  *static_cast<Unaligned*>(memory) = vector;
}

// The sum of 16 lanes by halves: lane l + lane l+8, then +4, +2, +1.
DSV4_INLINE float sum_16_lanes(const float* lanes) {
  using Quad = Vec<16>::F32;
  Quad part[4];
  for (int i = 0; i < 4; ++i) load(lanes + 4 * i, part[i]);
  const Quad quad = (part[0] + part[2]) + (part[1] + part[3]);
  return (quad[0] + quad[2]) + (quad[1] + quad[3]);
}

}  // namespace dsv4::cpu
