// Register budgets of warpgroups. PTX ISA, "Miscellaneous Instructions: setmaxnreg".
#pragma once

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

// Barrier `id` (1 to 15) of `num_threads` threads of the CTA.
__device__ __forceinline__ void named_barrier_sync(int id, int num_threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(num_threads) : "memory");
}

// The same, and whether `value` is true in any of the threads.
__device__ __forceinline__ bool named_barrier_or(int id, int num_threads, bool value) {
  int any;
  asm volatile(
      "{\n"
      ".reg .pred p, q;\n"
      "setp.ne.b32 p, %3, 0;\n"
      "barrier.cta.red.or.pred q, %1, %2, p;\n"
      "selp.b32 %0, 1, 0, q;\n"
      "}\n"
      : "=r"(any)
      : "r"(id), "r"(num_threads), "r"(static_cast<int>(value))
      : "memory");
  return any != 0;
}

}  // namespace dsv4::cuda::ptx
