// Asynchronous copies from global to shared memory. PTX ISA, "Data Movement and Conversion Instructions: Asynchronous copy".
#pragma once

#include <cstdint>

#include "backend/cuda/ptx/mbarrier.h"

namespace dsv4::cuda::ptx {

// Copies `bytes` contiguous bytes (a multiple of 16, both addresses 16-byte aligned) and counts them at `barrier`. Weights are read once:
// they leave the L2 first.
__device__ __forceinline__ void bulk_load_streaming(void* shared, const void* global, uint32_t bytes, uint64_t* barrier) {
  asm volatile(
      "{\n"
      ".reg .b64 policy;\n"
      "createpolicy.fractional.L2::evict_first.b64 policy, 1.0;\n"
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], policy;\n"
      "}\n" ::"r"(shared_address(shared)),
      "l"(global), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
}

// The same with the default policy.
__device__ __forceinline__ void bulk_load(void* shared, const void* global, uint32_t bytes, uint64_t* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(shared)),
               "l"(global), "r"(bytes), "r"(shared_address(barrier))
               : "memory");
}

// Copies 16 bytes, or writes 16 zeros where `valid` is false and reads nothing.
__device__ __forceinline__ void async_load_16(uint32_t shared, const void* global, bool valid) {
  const uint32_t source_bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(source_bytes) : "memory");
}

// The same of 4 or 8 bytes.
template <int kBytes>
__device__ __forceinline__ void async_load_small(uint32_t shared, const void* global, bool valid) {
  const uint32_t source_bytes = valid ? kBytes : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared), "l"(global), "n"(kBytes), "r"(source_bytes) : "memory");
}

// async_load_16 of bytes whose neighbours are read soon: the L2 fetches the 256 bytes that they are in.
__device__ __forceinline__ void async_load_16_of_256(uint32_t shared, const void* global, bool valid) {
  const uint32_t source_bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(source_bytes) : "memory");
}

// The calling thread's async loads since the last call are a group.
__device__ __forceinline__ void async_load_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until all of the calling thread's async loads are complete.
__device__ __forceinline__ void async_load_wait_all() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}

// Waits until all groups of the calling thread but the last kGroups are complete.
template <int kGroups>
__device__ __forceinline__ void async_load_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

// Arrives at `barrier` (an arrival counted in its init) when the calling thread's async loads so far are complete.
__device__ __forceinline__ void async_load_arrive(uint64_t* barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// An ordinary load that the compiler leaves where it stands: loads that do not wait for each other's values are then under way together.
__device__ __forceinline__ int32_t load_here(const int32_t* global) {
  int32_t value;
  asm volatile("ld.global.b32 %0, [%1];" : "=r"(value) : "l"(global));
  return value;
}

// An ordinary load from a shared address, 16-byte aligned.
__device__ __forceinline__ uint4 load_shared(uint32_t shared) {
  uint4 values;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(values.x), "=r"(values.y), "=r"(values.z), "=r"(values.w)
               : "r"(shared)
               : "memory");
  return values;
}

// The same of 8 bytes.
__device__ __forceinline__ uint2 load_shared_pair(uint32_t shared) {
  uint2 values;
  asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];" : "=r"(values.x), "=r"(values.y) : "r"(shared) : "memory");
  return values;
}

// An ordinary store to a shared address, 16-byte aligned.
__device__ __forceinline__ void store_shared(uint32_t shared, const uint4& values) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(shared), "r"(values.x), "r"(values.y), "r"(values.z), "r"(values.w)
               : "memory");
}

// The same of 8 bytes.
__device__ __forceinline__ void store_shared(uint32_t shared, const uint2& values) {
  asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(shared), "r"(values.x), "r"(values.y) : "memory");
}

// Brings the line of an address into the L2. PTX ISA, "prefetch".
__device__ __forceinline__ void prefetch_l2(const void* global) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(global));
}

// Brings `bytes` contiguous bytes (a multiple of 16, at a 16-byte aligned address) into the L2. PTX ISA, "cp.async.bulk.prefetch".
__device__ __forceinline__ void bulk_prefetch_l2(const void* global, uint32_t bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(global), "r"(bytes) : "memory");
}

// Orders ordinary shared-memory accesses before later ones of the async proxy (wgmma operands, bulk copies), and the other way round.
__device__ __forceinline__ void fence_async_proxy() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// The same of global memory.
__device__ __forceinline__ void fence_async_proxy_of_global() {
  asm volatile("fence.proxy.async.global;" ::: "memory");
}

}  // namespace dsv4::cuda::ptx
