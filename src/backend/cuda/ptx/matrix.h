// 8 × 8 matrices of 16-bit elements between shared memory and registers. PTX ISA, "Warp-level Matrix Load Instruction: ldmatrix" and
// "Warp-level Matrix Store Instruction: stmatrix". Lane 8i + r gives the address of row r of matrix i, 16 bytes. g = lane/4, q = lane%4.
#pragma once

#include <cstdint>

namespace dsv4::cuda::ptx {

// Transposed: word i has column g of matrix i, rows 2q (low half) and 2q + 1.
__device__ __forceinline__ void load_matrices_transposed(uint32_t address, uint32_t& w0, uint32_t& w1, uint32_t& w2, uint32_t& w3) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(w0), "=r"(w1), "=r"(w2), "=r"(w3)
               : "r"(address)
               : "memory");
}

// Word i goes to row g of matrix i, columns 2q (low half) and 2q + 1.
__device__ __forceinline__ void store_matrices(uint32_t address, uint32_t w0, uint32_t w1, uint32_t w2, uint32_t w3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(w0), "r"(w1), "r"(w2), "r"(w3)
               : "memory");
}

// Two matrices; the addresses of lanes 16 to 31 are not used.
__device__ __forceinline__ void store_matrices(uint32_t address, uint32_t w0, uint32_t w1) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};" ::"r"(address), "r"(w0), "r"(w1) : "memory");
}

}  // namespace dsv4::cuda::ptx
