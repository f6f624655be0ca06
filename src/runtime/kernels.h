// Single CUDA ops on a stream of the caller, for the C interface of kernels.
#pragma once

#include "ops/attention.h"
#include "ops/compress.h"
#include "ops/kv_store.h"

namespace dsv4 {

// Each enqueues its op's kernels on `stream` (a cudaStream_t of the current device; nullptr is the default stream); all pointers of the
// params are device memory. No allocation, no waiting. Throws Error where the program was built without CUDA, where the current device is
// no Hopper GPU, and where a CUDA call fails.
void run_attention(void* stream, const AttentionParams& params);
void run_kv_store(void* stream, const KvStoreParams& params);
void run_compress(void* stream, const CompressParams& params);

}  // namespace dsv4
