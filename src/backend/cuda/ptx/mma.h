// Warp-level matrix products. PTX ISA, "Warp-level Matrix Multiply-Accumulate Instructions: mma". Fragments, g = lane/4, q = lane%4:
// A [16, 16]: a[0] row g, columns 2q, 2q+1; a[1] row g+8; a[2] row g, columns 2q+8, 2q+9; a[3] row g+8, the same.
// B [16, 8]: b[0] column g, rows 2q, 2q+1; b[1] rows 2q+8, 2q+9. D [16, 8]: d[0], d[1] row g, columns 2q, 2q+1; d[2], d[3] row g+8.
#pragma once

#include <cstdint>

namespace dsv4::cuda::ptx {

// d += a·b in bf16 with fp32 sums.
__device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace dsv4::cuda::ptx
