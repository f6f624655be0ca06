// Programmatic dependent launch. PTX ISA, "Parallel Synchronization and Communication Instructions: griddepcontrol".
#pragma once

namespace dsv4::cuda::ptx {

// Waits until the kernels before this one in the stream have finished and their writes are visible. Every kernel calls it in every thread
// that reads what others wrote, or writes anything, before it does so: then whatever came earlier in the stream has finished too.
__device__ __forceinline__ void grid_dependency_wait() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}

// Lets the next kernel of the stream start its preamble (barriers, weight loads) once every CTA has called this.
__device__ __forceinline__ void grid_launch_dependents() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

}  // namespace dsv4::cuda::ptx
