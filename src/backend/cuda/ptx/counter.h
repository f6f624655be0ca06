// Counters in global memory between the CTAs of a launch. PTX ISA, "ld", "atom".
#pragma once

#include <cstdint>

namespace dsv4::cuda::ptx {

// Adds and gives what was there. What the thread wrote before, and what it has seen of others, is visible to whoever reads the sum with
// load_acquire().
__device__ __forceinline__ uint32_t add_release(uint32_t* counter, uint32_t value) {
  uint32_t before;
  asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], %2;" : "=r"(before) : "l"(counter), "r"(value) : "memory");
  return before;
}

// The same where nobody asks for what was there, and nothing is to be seen of others.
__device__ __forceinline__ void count_release(uint32_t* counter, uint32_t value) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(counter), "r"(value) : "memory");
}

__device__ __forceinline__ uint32_t load_acquire(const uint32_t* counter) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
  return value;
}

}  // namespace dsv4::cuda::ptx
