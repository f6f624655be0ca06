// KV compressors, up to two that share a batch (main and indexer) in one launch.
//
// CTA (row, compressor). Most rows complete no block and only keep their (a, b) in the state; a row that completes a block whose tokens all
// lie in this step forms its entry; the first row of a sequence forms the entries (at most two) that need tokens of earlier steps. The
// state is a ring by position, so a row's place may hold a token that the first row has yet to read: such rows are written by the first
// row's CTA after its entries, the others by their own. No CTA writes what another reads.
//
// An entry: a thread holds 4 channels of every num_groups-th slot and runs an online softmax over them, kBatch slots of loads in flight;
// the groups' partial sums meet in shared memory; warp 0 norms, rotates, quantises and stores the row (block/kv_entry.h). The order of the
// sums depends on dim and ratio alone. Bytes per entry (512 channels): ratio 4 32 KB and 8 KB of ape, ratio 128 512 KB and 256 KB of ape,
// the latter from the L2: 6 to 8 µs of one SM, once in 128 tokens.
#include <cmath>

#include "backend/cuda/block/kv_entry.h"
#include "backend/cuda/ops.h"
#include "backend/cuda/ptx/grid.h"

namespace dsv4::cuda {
namespace {

constexpr int kMaxCompressors = 2;
constexpr int kQuad = 4;  // channels of a thread

struct Compressor {
  CompressParams params;
  int64_t page_bytes;    // of params.entries
  float hadamard_scale;  // 1/√dim
};

struct Compressors {
  Compressor items[kMaxCompressors];
};

template <int kThreads>
struct EntryShared {
  // Partial softmax of every slot group, [num_groups, dim]; num_groups·dim = 4·kThreads.
  float4 max[kThreads], sum[kThreads], weighted[kThreads];
  uint4 row[kMaxHeadDim / kChunk];  // the entry before its norm, bf16
  Rotation rotations[kRopePairs];
};

// The rows of one sequence in this step.
struct Sequence {
  int idx, slot;
  int row_begin;
  int first_position, end_position;

  __device__ int row(int position) const { return row_begin + position - first_position; }
};

// First token that block `block_idx` gathers.
__device__ __forceinline__ int first_gathered(const CompressParams& params, int block_idx) {
  const int begin = block_idx * params.ratio;
  return params.ratio == 4 ? max(begin - 4, 0) : begin;
}

__device__ __forceinline__ float* state_of(const CompressParams& params, int slot) {
  return params.state + static_cast<int64_t>(slot) * 2 * params.state_tokens * params.width();
}

__device__ __forceinline__ float4 load_quad(const float* address) {
  return *reinterpret_cast<const float4*>(address);
}
__device__ __forceinline__ float4 add_quads(const float4& a, const float4& b) {
  return {__fadd_rn(a.x, b.x), __fadd_rn(a.y, b.y), __fadd_rn(a.z, b.z), __fadd_rn(a.w, b.w)};
}

// Online softmax of one channel.
struct Softmax {
  float max = -INFINITY, sum = 0.0f, weighted = 0.0f;

  // Adds kCount slots; b = −∞ for those that do not exist.
  template <int kCount>
  __device__ __forceinline__ void add(const float (&a)[kCount], const float (&b)[kCount]) {
    float new_max = max;
#pragma unroll
    for (int i = 0; i < kCount; ++i) new_max = fmaxf(new_max, b[i]);
    const float reference = new_max == -INFINITY ? 0.0f : new_max;  // no slot yet: every weight below is e^−∞ = 0
    const float rescale = expf(max - reference);
    sum *= rescale;
    weighted *= rescale;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float weight = expf(b[i] - reference);
      sum += weight;
      weighted += weight * a[i];
    }
    max = new_max;
  }
};

// The calling thread's share of the softmax over the slots of a block, into shared.max, sum and weighted.
template <int kThreads, int kBatch>
__device__ __forceinline__ void gather_slots(const CompressParams& params, const Sequence& sequence, int block_idx,
                                             EntryShared<kThreads>& shared) {
  const int num_quads = params.dim / kQuad;
  const int num_groups = kThreads / num_quads;
  const int group = threadIdx.x / num_quads;
  const int channel = static_cast<int>(threadIdx.x) % num_quads * kQuad;
  const int width = params.width();
  const float* state_a = state_of(params, sequence.slot);
  const float* state_b = state_a + static_cast<int64_t>(params.state_tokens) * width;
  // Ratio 4: the previous block speaks through the first half of the channels, the block itself through the second.
  const int lead = params.ratio == 4 ? 4 : 0;
  const int num_slots = params.ratio + lead;
  const int first = block_idx * params.ratio - lead;

  Softmax softmax[kQuad];
  for (int slot_begin = group; slot_begin < num_slots; slot_begin += num_groups * kBatch) {
    float4 a[kBatch], b[kBatch], ape[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int slot = slot_begin + i * num_groups;
      const int position = first + slot;
      a[i] = ape[i] = {};
      b[i] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
      if (slot >= num_slots || position < 0) continue;
      const int column = channel + (lead > 0 && slot >= lead ? params.dim : 0);
      const bool in_step = position >= sequence.first_position;
      const int64_t offset = static_cast<int64_t>(in_step ? sequence.row(position) : position % params.state_tokens) * width + column;
      a[i] = load_quad((in_step ? params.kv : state_a) + offset);
      b[i] = load_quad((in_step ? params.gate : state_b) + offset);
      if (in_step) ape[i] = load_quad(params.ape + (position % params.ratio) * width + column);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) b[i] = add_quads(b[i], ape[i]);
#pragma unroll
    for (int channel_idx = 0; channel_idx < kQuad; ++channel_idx) {
      float channel_a[kBatch], channel_b[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        channel_a[i] = reinterpret_cast<const float(&)[kQuad]>(a[i])[channel_idx];
        channel_b[i] = reinterpret_cast<const float(&)[kQuad]>(b[i])[channel_idx];
      }
      softmax[channel_idx].add(channel_a, channel_b);
    }
  }
  shared.max[threadIdx.x] = {softmax[0].max, softmax[1].max, softmax[2].max, softmax[3].max};
  shared.sum[threadIdx.x] = {softmax[0].sum, softmax[1].sum, softmax[2].sum, softmax[3].sum};
  shared.weighted[threadIdx.x] = {softmax[0].weighted, softmax[1].weighted, softmax[2].weighted, softmax[3].weighted};
}

// Merges the groups' softmaxes into shared.row, rounded to bf16.
template <int kThreads>
__device__ __forceinline__ void merge_groups(int dim, EntryShared<kThreads>& shared) {
  const int num_groups = kQuad * kThreads / dim;
  const float* maxima = reinterpret_cast<const float*>(shared.max);
  const float* sums = reinterpret_cast<const float*>(shared.sum);
  const float* weighted = reinterpret_cast<const float*>(shared.weighted);
  for (int channel = threadIdx.x; channel < dim; channel += kThreads) {
    float max = maxima[channel];
    for (int group = 1; group < num_groups; ++group) max = fmaxf(max, maxima[group * dim + channel]);
    float sum = 0.0f, value = 0.0f;
    for (int group = 0; group < num_groups; ++group) {
      const float factor = expf(maxima[group * dim + channel] - max);
      sum += factor * sums[group * dim + channel];
      value += factor * weighted[group * dim + channel];
    }
    reinterpret_cast<Bf16*>(shared.row)[channel] = float_to_bf16(__fdiv_rn(value, sum));
  }
}

// Warp 0: norms, rotates and stores shared.row as entry `block_idx` of the sequence.
template <int kThreads>
__device__ __forceinline__ void store_entry(const Compressor& compressor, int page, int block_idx, const EntryShared<kThreads>& shared) {
  const CompressParams& params = compressor.params;
  const int entries_per_page = params.entries.entries_per_page;
  const int entry_idx = block_idx % entries_per_page;
  float x[kRowChunks][kChunk];
  norm_and_rotate(reinterpret_cast<const Bf16*>(shared.row), params.weight, shared.rotations, params.dim, params.eps, x);
  if (params.format == EntryFormat::kFp8) {
    const KvEntryLayout layout{params.dim};
    store_fp8_entry(layout, x, entry_address(layout, params.entries.data, compressor.page_bytes, page, entries_per_page, entry_idx));
  } else {
    const IndexEntryLayout layout{params.dim};
    store_fp4_entry(layout, compressor.hadamard_scale, x[0],
                    entry_address(layout, params.entries.data, compressor.page_bytes, page, entries_per_page, entry_idx));
  }
}

// Forms and stores entry `block_idx` of the sequence; the whole CTA.
template <int kThreads, int kBatch>
__device__ __forceinline__ void form_entry(const Compressor& compressor, const Sequence& sequence, int block_idx,
                                           EntryShared<kThreads>& shared) {
  const CompressParams& params = compressor.params;
  __syncthreads();  // warp 0 may still be reading the entry before
  const int64_t table_begin = static_cast<int64_t>(sequence.idx) * params.batch.page_table_stride;
  const int page = params.batch.page_table[table_begin + block_idx / params.entries.entries_per_page];
  gather_slots<kThreads, kBatch>(params, sequence, block_idx, shared);
  if (threadIdx.x >= kThreads - kRopePairs) {
    const int pair = threadIdx.x - (kThreads - kRopePairs);
    shared.rotations[pair] = rope_rotation(block_idx * params.ratio, params.freqs[pair]);
  }
  __syncthreads();
  merge_groups(params.dim, shared);
  __syncthreads();
  if (threadIdx.x < 32) store_entry(compressor, page, block_idx, shared);
}

// Keeps the (a, b) row of the token at `position`; the whole CTA.
template <int kThreads>
__device__ __forceinline__ void write_state(const CompressParams& params, const Sequence& sequence, int position) {
  const int width = params.width();
  const int64_t offset = static_cast<int64_t>(sequence.row(position)) * width;
  const float* ape = params.ape + (position % params.ratio) * width;
  float* a = state_of(params, sequence.slot) + static_cast<int64_t>(position % params.state_tokens) * width;
  float* b = a + static_cast<int64_t>(params.state_tokens) * width;
  for (int channel = threadIdx.x * kQuad; channel < width; channel += kThreads * kQuad) {
    *reinterpret_cast<float4*>(a + channel) = load_quad(params.kv + offset + channel);
    *reinterpret_cast<float4*>(b + channel) = add_quads(load_quad(params.gate + offset + channel), load_quad(ape + channel));
  }
}

template <int kThreads, int kBatch>
__global__ void __launch_bounds__(kThreads, 512 / kThreads) compress_kernel(const __grid_constant__ Compressors compressors) {
  __shared__ EntryShared<kThreads> shared;
  ptx::grid_dependency_wait();
  ptx::grid_launch_dependents();
  const Compressor& compressor = compressors.items[blockIdx.y];
  const CompressParams& params = compressor.params;
  const BatchView& batch = params.batch;
  const int row = blockIdx.x;
  const int position = batch.positions[row];
  if (position < 0) return;
  Sequence sequence;
  sequence.idx = batch.seq_idx[row];
  sequence.slot = batch.slots[sequence.idx];
  sequence.row_begin = batch.row_begin[sequence.idx];
  sequence.first_position = position - (row - sequence.row_begin);
  sequence.end_position = sequence.first_position + batch.row_begin[sequence.idx + 1] - sequence.row_begin;

  // Tokens of earlier steps that this step's first blocks gather: [reserved_begin, first_position). Their places in the state belong to the
  // first row's CTA.
  const int first_block = sequence.first_position / params.ratio;
  const int reserved_begin = first_gathered(params, first_block);
  const int num_reserved = sequence.first_position - reserved_begin;
  const int state_begin = max(sequence.first_position, sequence.end_position - params.state_tokens);  // first token to keep
  const auto is_reserved = [&](int token) { return (token - reserved_begin) % params.state_tokens < num_reserved; };

  // The entries of this CTA: of the first row those that gather reserved tokens, of another the block that it completes, if all its tokens
  // are rows of this step.
  const bool is_first = row == sequence.row_begin;
  const auto is_ours = [&](int block) {
    const bool complete = (block + 1) * params.ratio <= (is_first ? sequence.end_position : position + 1);
    return complete && (first_gathered(params, block) < sequence.first_position) == is_first;
  };
  int block = is_first ? first_block : position / params.ratio;
  for (; is_ours(block); ++block) form_entry<kThreads, kBatch>(compressor, sequence, block, shared);

  if (!is_first) {
    if (position >= state_begin && !is_reserved(position)) write_state<kThreads>(params, sequence, position);
    return;
  }
  __syncthreads();  // every thread has read the state
  for (int token = state_begin; token < sequence.end_position; ++token) {
    if (token == position || is_reserved(token)) write_state<kThreads>(params, sequence, token);
  }
}

// Checks what the kernel relies on.
Compressor make_compressor(const CompressParams& params) {
  const int num_slots = params.ratio == 4 ? 8 : params.ratio;
  if (params.ratio != 4 && params.ratio != 128) fail_line("compress: ratio %d, expected 4 or 128", params.ratio);
  if (params.state_tokens < num_slots) {
    fail_line("compress: state of %d tokens, expected at least %d", params.state_tokens, num_slots);
  }
  if (params.entries.entries_per_page <= 0) {
    fail_line("compress: %d entries per page, expected at least 1", params.entries.entries_per_page);
  }
  const bool is_fp8 = params.format == EntryFormat::kFp8;
  if (!is_head_dim(params.dim) || (!is_fp8 && params.dim > kMaxWarpHadamardDim)) {
    fail_line("compress: dim %d, expected 64, 128, 256%s", params.dim, is_fp8 ? " or 512" : "");
  }
  const size_t page_bytes = is_fp8 ? KvEntryLayout{params.dim}.page_bytes(params.entries.entries_per_page)
                                   : IndexEntryLayout{params.dim}.page_bytes(params.entries.entries_per_page);
  return {params, static_cast<int64_t>(page_bytes), static_cast<float>(1.0 / std::sqrt(static_cast<double>(params.dim)))};
}

}  // namespace

void compress_group(Context& context, const CompressGroupParams& params) {
  const auto count = params.compressors.size();
  if (count == 0) return;
  if (count > kMaxCompressors) fail_line("compress: %zu compressors, expected at most %d", count, kMaxCompressors);
  const CompressParams& first = params.compressors[0];
  Compressors compressors{};
  for (size_t i = 0; i < count; ++i) {
    const CompressParams& item = params.compressors[i];
    if (item.ratio != first.ratio || item.batch.num_tokens != first.batch.num_tokens) {
      fail_line("compress: ratio %d of %d rows beside ratio %d of %d, expected the same", item.ratio, item.batch.num_tokens, first.ratio,
                first.batch.num_tokens);
    }
    compressors.items[i] = make_compressor(item);
  }
  const dim3 grid(first.batch.num_tokens, static_cast<unsigned>(count));
  // Many small entries, or few with many slots: one batch of all 8 slots, or 4 groups of threads at 512 channels.
  if (first.ratio == 4) {
    launch(context, "compress", compress_kernel<128, 8>, {grid, dim3(128)}, compressors);
  } else {
    launch(context, "compress", compress_kernel<512, 4>, {grid, dim3(512)}, compressors);
  }
}

void compress(Context& context, const CompressParams& params) {
  compress_group(context, {{&params, 1}});
}

}  // namespace dsv4::cuda
