// Register budgets of warpgroups. PTX ISA, "Miscellaneous Instructions: setmaxnreg".
#pragma once

#include <cstdint>

namespace dsv4::cuda::ptx {

template <int kRegisters>
__device__ __forceinline__ void increase_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

template <int kRegisters>
__device__ __forceinline__ void decrease_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// The same value, of which the compiler knows nothing: what follows from it is computed where it stands, not kept in registers from ahead
// of a loop.
__device__ __forceinline__ int computed_here(int value) {
  asm volatile("" : "+r"(value));
  return value;
}

// A value that is the same in all lanes of a warp: the compiler then knows that it is, and keeps it, and what follows from it, in uniform
// registers.
template <class Value>
__device__ __forceinline__ Value uniform(Value value) {
  return __shfl_sync(0xffffffffu, value, 0);
}

// Whether `value` holds in any lane of a warp.
__device__ __forceinline__ bool any_lane(bool value) {
  return __any_sync(0xffffffffu, value) != 0;
}

// uniform(), where it is not known yet that all lanes have the value: a reduction does not wait in the queue of shared memory.
__device__ __forceinline__ uint32_t uniform_word(uint32_t value) {
  return __reduce_or_sync(0xffffffffu, value);
}

// threadIdx.x and blockIdx.x, read where it stands, too.
__device__ __forceinline__ int thread_here() {
  int value;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(value));
  __builtin_assume(value >= 0 && value < 1024);
  return value;
}
__device__ __forceinline__ int cta_here() {
  int value;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(value));
  return value;
}

// Reads a kernel argument line by line: the constant cache then has it when it is needed.
template <class Argument>
__device__ __forceinline__ void touch_constants(const Argument& argument) {
  constexpr int kLineBytes = 64;
  const int* words = reinterpret_cast<const int*>(&argument);
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(Argument)); i += kLineBytes) asm volatile("" ::"r"(words[i / 4]));
}

// Barrier `id` (1 to 15) of `num_threads` threads of the CTA.
__device__ __forceinline__ void named_barrier_sync(int id, int num_threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(num_threads) : "memory");
}

}  // namespace dsv4::cuda::ptx
