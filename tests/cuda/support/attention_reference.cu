#include <cuda_runtime.h>

#include "backend/cuda/runtime/check.h"
#include "cuda/support/attention_reference.h"

namespace dsv4::test {
namespace {

constexpr int kThreads = 256;
constexpr int kTile = 256;  // keys whose logits are there at a time

__device__ double power(int exponent) {
  return ldexp(1.0, exponent);
}

__device__ double e4m3_value(int code) {
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  const double magnitude = exponent == 0 ? mantissa * power(-9) : (8 + mantissa) * power(exponent - 10);
  return code >= 128 ? -magnitude : magnitude;
}

__device__ double bf16_value(int low_byte, int high_byte) {
  return __uint_as_float(static_cast<uint32_t>(high_byte << 8 | low_byte) << 16);
}

// One key of a row: where its bytes lie. `values` is nullptr where there is none.
struct Key {
  const uint8_t* values;
  const uint8_t* scales;
};

__device__ int count_window(const AttentionParams& params, int row) {
  const int position = params.batch.positions[row];
  const int all = position + 1 < params.window ? position + 1 : params.window;
  return params.key_counts == nullptr ? all : min(all, params.key_counts[2 * row]);
}

__device__ Key find_key(const AttentionParams& params, int row, int key) {
  const KvEntryLayout layout{params.head_dim};
  const int position = params.batch.positions[row], seq = params.batch.seq_idx[row];
  const int num_window = count_window(params, row);
  const int first = position - num_window + 1;
  const uint8_t* page;
  int entry, entries;
  if (key < num_window) {
    entries = params.ring.ring_size;
    entry = (first + key) % entries;
    page = params.ring.data + params.batch.slots[seq] * layout.page_bytes(entries);
  } else {
    const int i = key - num_window;
    const int c = params.selected == nullptr ? i : params.selected[static_cast<int64_t>(row) * params.num_selected + i];
    if (c < 0) return {nullptr, nullptr};
    entries = params.entries.entries_per_page;
    entry = c % entries;
    const int32_t physical = params.batch.page_table[static_cast<int64_t>(seq) * params.batch.page_table_stride + c / entries];
    page = params.entries.data + physical * layout.page_bytes(entries);
  }
  return {page + layout.value_offset(entry), page + layout.scale_offset(entry, entries)};
}

__device__ double key_value(const AttentionParams& params, const Key& key, int dim) {
  const int nope_dim = params.head_dim - kRopeDim;
  if (dim < nope_dim) return e4m3_value(key.values[dim]) * power(key.scales[dim / 64] - 127);
  const uint8_t* bytes = key.values + nope_dim + 2 * (dim - nope_dim);
  return bf16_value(bytes[0], bytes[1]);
}

__device__ int count_keys(const AttentionParams& params, int row) {
  const int num_window = count_window(params, row);
  if (params.entries.data == nullptr) return num_window;
  const int visible = (params.batch.positions[row] + 1) / params.ratio;
  const int all = params.selected == nullptr ? visible : min(visible, params.num_selected);
  return num_window + (params.key_counts == nullptr ? all : min(all, params.key_counts[2 * row + 1]));
}

// A block: one row and head. Logits of a tile of keys by warps, then values by threads, a dim or two each; the maximum in a pass of its
// own.
__global__ void reference_kernel(AttentionParams params, double* out, double* lse) {
  __shared__ double logits[kTile];
  __shared__ double maxima[kThreads / 32];
  const int row = blockIdx.x / params.num_heads, head = blockIdx.x % params.num_heads;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const Bf16* q = params.q + static_cast<int64_t>(blockIdx.x) * params.head_dim;
  const int num_keys = count_keys(params, row);
  double max = -INFINITY, denominator = 0.0, sums[2] = {0.0, 0.0};
  for (int pass = 0; pass < 2; ++pass) {
    for (int begin = 0; begin < num_keys; begin += kTile) {
      for (int i = warp; i < kTile; i += kThreads / 32) {
        double sum = -INFINITY;
        const Key key = begin + i < num_keys ? find_key(params, row, begin + i) : Key{nullptr, nullptr};
        if (key.values != nullptr) {
          sum = 0.0;
          for (int dim = lane; dim < params.head_dim; dim += 32) {
            sum += bf16_value(q[dim].bits & 0xff, q[dim].bits >> 8) * key_value(params, key, dim);
          }
          for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
          sum *= static_cast<double>(params.softmax_scale);
        }
        if (lane == 0) logits[i] = sum;
      }
      __syncthreads();
      if (pass == 0) {
        max = fmax(max, logits[threadIdx.x]);
      } else {
        for (int i = 0; i < kTile && begin + i < num_keys; ++i) {
          const Key key = find_key(params, row, begin + i);
          if (key.values == nullptr) continue;
          const double weight = exp(logits[i] - max);
          denominator += weight;
          for (int j = 0; j < 2; ++j) {
            const int dim = threadIdx.x + j * kThreads;
            if (dim < params.head_dim) sums[j] += weight * key_value(params, key, dim);
          }
        }
      }
      __syncthreads();
    }
    if (pass == 0) {
      for (int offset = 16; offset > 0; offset /= 2) max = fmax(max, __shfl_xor_sync(0xffffffffu, max, offset));
      if (lane == 0) maxima[warp] = max;
      __syncthreads();
      for (int i = 0; i < kThreads / 32; ++i) max = fmax(max, maxima[i]);
    }
  }
  // Without keys the sums are zeros and the sink is all there is.
  const double sink = params.sink[head], largest = fmax(max, sink);
  if (threadIdx.x == 0) lse[blockIdx.x] = isinf(largest) ? largest : largest + log(denominator * exp(max - largest) + exp(sink - largest));
  denominator = isinf(max) ? 1.0 : denominator + exp(sink - max);
  double* output = out + static_cast<int64_t>(blockIdx.x) * params.head_dim;
  for (int j = 0; j < 2; ++j) {
    const int dim = threadIdx.x + j * kThreads;
    if (dim < params.head_dim) output[dim] = sums[j] / denominator;
  }
  __syncthreads();
  const int pair = threadIdx.x;
  if (pair >= kRopeDim / 2) return;
  // The angle is an fp32 product by contract.
  const double angle = __fmul_rn(static_cast<float>(params.batch.positions[row]), params.freqs[pair]);
  double* values = output + params.head_dim - kRopeDim + 2 * pair;
  const double a = values[0], b = values[1];
  values[0] = a * cos(angle) + b * sin(angle);
  values[1] = b * cos(angle) - a * sin(angle);
}

}  // namespace

void attention_reference(const AttentionParams& params, double* out, double* lse) {
  reference_kernel<<<params.batch.num_tokens * params.num_heads, kThreads>>>(params, out, lse);
  cuda::check(cudaGetLastError(), "launch", "attention_reference");
  cuda::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize", "attention_reference");
}

}  // namespace dsv4::test
