// Fragments of matrix products between registers and shared memory. PTX ISA, "Warp-level Matrix Load/Store Instructions: ldmatrix,
// stmatrix". Four matrices of 8 rows of 16 bytes: lane l gives the address of row l % 8 of matrix l / 8, and has of matrix i in word i the
// 4 bytes l % 4 of row l / 4. tests/cuda/layout prints and asserts the map.
#pragma once

#include <cstdint>

namespace dsv4::cuda::ptx {

__device__ __forceinline__ void load_matrices(uint32_t address, uint32_t (&words)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(address)
               : "memory");
}

__device__ __forceinline__ void store_matrices(uint32_t address, const uint32_t (&words)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(words[0]), "r"(words[1]),
               "r"(words[2]), "r"(words[3])
               : "memory");
}

}  // namespace dsv4::cuda::ptx
