#include "runtime/kernels.h"

#include "base/error.h"
#ifdef DSV4_WITH_CUDA
#include "backend/cuda/ops.h"
#include "backend/cuda/runtime/device.h"
#endif

namespace dsv4 {

#ifdef DSV4_WITH_CUDA

namespace {

int device_attribute(cudaDeviceAttr attribute, int device_idx) {
  int value = 0;
  cuda::check(cudaDeviceGetAttribute(&value, attribute, device_idx), "cudaDeviceGetAttribute");
  return value;
}

// A context of one call. All that it asks for is known to the host.
cuda::Context make_context(void* stream) {
  int device_idx = 0;
  if (cudaGetDevice(&device_idx) != cudaSuccess) {
    cudaGetLastError();
    fail("no GPU to run on: {}", why_no_device());
  }
  const int major = device_attribute(cudaDevAttrComputeCapabilityMajor, device_idx);
  const int minor = device_attribute(cudaDevAttrComputeCapabilityMinor, device_idx);
  require(major == 9 && minor == 0, "device cuda:{}: compute capability {}.{}, these kernels are for 9.0 (Hopper)", device_idx, major,
          minor);
  cuda::Context context;
  context.stream = static_cast<cudaStream_t>(stream);
  context.num_sms = device_attribute(cudaDevAttrMultiProcessorCount, device_idx);
  return context;
}

}  // namespace

void run_attention(void* stream, const AttentionParams& params) {
  cuda::Context context = make_context(stream);
  cuda::attention(context, params);
}

void run_kv_store(void* stream, const KvStoreParams& params) {
  cuda::Context context = make_context(stream);
  cuda::kv_store(context, params);
}

void run_compress(void* stream, const CompressParams& params) {
  cuda::Context context = make_context(stream);
  cuda::compress(context, params);
}

#else

namespace {

[[noreturn]] void fail_without_cuda(const char* op) {
  fail("{}: this library was built without CUDA (preset cuda builds it where nvcc is found)", op);
}

}  // namespace

void run_attention(void*, const AttentionParams&) {
  fail_without_cuda("attention");
}

void run_kv_store(void*, const KvStoreParams&) {
  fail_without_cuda("kv_store");
}

void run_compress(void*, const CompressParams&) {
  fail_without_cuda("compress");
}

#endif

}  // namespace dsv4
