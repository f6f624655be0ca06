// Index scores (spec 2.7): I(t, c) = bf( Σ_h bf( relu(bf(iq_h·ik_c))·w_h ) ) for the visible entries of every row that has more than topk.
//
// A warp multiplies 32 entries (two mma tiles of 16: the A operand, in registers) with the row's heads, 8 at a time (the B operand, in
// shared memory as fragments, decoded once per CTA). e2m1 and its scales are exact in bf16, their products exact in fp32.
//
//            dims, in any order         The order of K: thread q of a quad holds bytes [q·dim/8, (q+1)·dim/8) of an entry or of a head, one
//          ┌──────────────────┐         16-byte run (dim 128) in one scale block. Word w of the run gives k-steps 2w and 2w+1; the pair
//  entries │ A: 2×16 per warp │         of codes i and i+4 of a word is one register. Both operands agree, so the order does not matter.
//          └──────────────────┘
//          ┌──────────────────┐         D: thread (g, q) holds entries g and g+8 of a tile with heads 2q and 2q+1. Rounding, relu, weight
//    heads │ B: 8 per step    │         and the sum over its heads (ascending) happen in registers; the quad is summed by two shuffles.
//          └──────────────────┘
//
// Grid (rows, CTAs of a row): warps stride over the row's entries, so a captured launch serves any position. Every score is computed by one
// warp in one order: it depends on nothing but its row and entry.
// Budget of 32 entries × 64 heads × 128 dims: 128 mma ≈ 830 cycles of a sub-core's tensor pipe; beside it ≈ 380 instructions to decode, 200
// for rounding and sums, 32 shared-memory loads. Bytes: 68 per entry and row, 2 per score.
#include "backend/cuda/block/formats.h"
#include "backend/cuda/ops.h"
#include "backend/cuda/ptx/convert.h"
#include "backend/cuda/ptx/grid.h"
#include "backend/cuda/ptx/mma.h"

namespace dsv4::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kCtasPerSm = 4;
constexpr int kTiles = 2;  // of 16 entries, of a warp: they share the loads of the heads
constexpr int kWarpEntries = 16 * kTiles;
constexpr int kCtaEntries = kWarps * kWarpEntries;
constexpr int kHeadTile = 8;
constexpr int kMaxHeads = 64;

template <int kDim>
struct IndexShape {
  static constexpr int kWords = kDim / 32;  // words of 8 codes that a thread holds of an entry
  static constexpr int kSteps = 2 * kWords;
  static constexpr int kValueBytes = kDim / 2;
  static constexpr int kScaleBytes = kDim / kIndexerFp4Block;
};

template <int kDim>
struct alignas(16) IndexShared {
  uint4 heads[kMaxHeads / kHeadTile][IndexShape<kDim>::kWords][32];  // B fragments of two k-steps: [head tile][word][lane]
  uint32_t weights[kMaxHeads / 2];                                   // bf16 pairs
};

// A thread's codes of one entry or head, and their scale.
template <int kDim>
struct Codes {
  uint32_t words[IndexShape<kDim>::kWords];
  uint32_t scale;
};

template <int kDim>
__device__ __forceinline__ Codes<kDim> load_codes(const uint8_t* values, const uint8_t* scales, int quad_lane) {
  constexpr int kBytes = kDim / 8;
  Codes<kDim> codes;
  if constexpr (kBytes == 16) {
    const uint4 run = *reinterpret_cast<const uint4*>(values + quad_lane * kBytes);
    codes.words[0] = run.x;
    codes.words[1] = run.y;
    codes.words[2] = run.z;
    codes.words[3] = run.w;
  } else {
    static_assert(kBytes == 8);
    const uint2 run = *reinterpret_cast<const uint2*>(values + quad_lane * kBytes);
    codes.words[0] = run.x;
    codes.words[1] = run.y;
  }
  codes.scale = scales[quad_lane * 2 * kBytes / kIndexerFp4Block];
  return codes;
}

// Four pairs of the eight codes of a word: pair i holds codes i and i + 4. The three low bits of a code in place of the lowest exponent
// bits and the first mantissa bit are a bf16 that is 2^126 too small; that factor and the scale are applied one after the other, since
// their product may not be a bf16.
__device__ __forceinline__ uint4 decode_word(uint32_t word, uint32_t scale) {
  constexpr uint32_t kMagnitude = 0x01c001c0, kSign = 0x80008000, kTwoTo126 = 0x7e807e80;
  uint4 pairs;
  pairs.x = ((word << 6) & kMagnitude) | ((word << 12) & kSign);
  pairs.y = ((word << 2) & kMagnitude) | ((word << 8) & kSign);
  pairs.z = ((word >> 2) & kMagnitude) | ((word << 4) & kSign);
  pairs.w = ((word >> 6) & kMagnitude) | (word & kSign);
  pairs.x = multiply_bf16x2(multiply_bf16x2(pairs.x, kTwoTo126), scale);
  pairs.y = multiply_bf16x2(multiply_bf16x2(pairs.y, kTwoTo126), scale);
  pairs.z = multiply_bf16x2(multiply_bf16x2(pairs.z, kTwoTo126), scale);
  pairs.w = multiply_bf16x2(multiply_bf16x2(pairs.w, kTwoTo126), scale);
  return pairs;
}

// The row's heads as B fragments and its weights, both padded with zeros to whole head tiles.
template <int kDim>
__device__ __forceinline__ void stage_heads(const IndexScoresParams& params, int row, int num_head_tiles, IndexShared<kDim>& shared) {
  using Shape = IndexShape<kDim>;
  const int64_t first_head = static_cast<int64_t>(row) * params.num_heads;
  for (int i = threadIdx.x; i < num_head_tiles * 32; i += kThreads) {
    const int tile = i / 32, lane = i % 32;
    const int head = tile * kHeadTile + lane / 4;
    Codes<kDim> codes = {};
    if (head < params.num_heads) {
      codes = load_codes<kDim>(params.codes + (first_head + head) * Shape::kValueBytes,
                               params.scales + (first_head + head) * Shape::kScaleBytes, lane % 4);
    }
    const uint32_t scale = bf16_scale_pair(codes.scale);
#pragma unroll
    for (int word = 0; word < Shape::kWords; ++word) shared.heads[tile][word][lane] = decode_word(codes.words[word], scale);
  }
  for (int i = threadIdx.x; i < num_head_tiles * kHeadTile / 2; i += kThreads) {
    const uint32_t low = 2 * i < params.num_heads ? params.weights[first_head + 2 * i].bits : 0;
    const uint32_t high = 2 * i + 1 < params.num_heads ? params.weights[first_head + 2 * i + 1].bits : 0;
    shared.weights[i] = low | (high << 16);
  }
}

// Where the entries of one sequence lie.
struct EntrySource {
  const uint8_t* data;
  const int32_t* page_table;
  int page_shift;  // entries_per_page = 1 << page_shift
  int num_visible;
};

// The calling thread's part of the 32 entries from `begin` on; the ones behind the last visible entry repeat it.
template <int kDim>
__device__ __forceinline__ void load_entries(const EntrySource& source, int begin, int lane, Codes<kDim> (&codes)[2 * kTiles]) {
  using Shape = IndexShape<kDim>;
  const int entries_per_page = 1 << source.page_shift;
  const int64_t page_bytes = static_cast<int64_t>(Shape::kValueBytes + Shape::kScaleBytes) << source.page_shift;
#pragma unroll
  for (int i = 0; i < 2 * kTiles; ++i) {
    const int entry = min(begin + 8 * i + lane / 4, source.num_visible - 1);
    const int entry_idx = entry & (entries_per_page - 1);
    const uint8_t* page = source.data + source.page_table[entry >> source.page_shift] * page_bytes;
    codes[i] = load_codes<kDim>(page + entry_idx * Shape::kValueBytes,
                                page + entries_per_page * Shape::kValueBytes + entry_idx * Shape::kScaleBytes, lane % 4);
  }
}

template <int kDim>
__global__ void __launch_bounds__(kThreads, kCtasPerSm) index_scores_kernel(IndexScoresParams params, int page_shift, int num_head_tiles) {
  using Shape = IndexShape<kDim>;
  __shared__ IndexShared<kDim> shared;
  ptx::grid_dependency_wait();
  ptx::grid_launch_dependents();
  const int row = params.row_begin + static_cast<int>(blockIdx.x);
  const int num_visible = num_visible_entries(params.batch.positions[row], params.ratio);
  const int cta_begin = static_cast<int>(blockIdx.y) * kCtaEntries;
  if (num_visible <= params.topk || cta_begin >= num_visible) return;

  const int lane = threadIdx.x % 32;
  const int stride = static_cast<int>(gridDim.y) * kCtaEntries;
  int begin = cta_begin + static_cast<int>(threadIdx.x) / 32 * kWarpEntries;
  const int32_t* page_table = params.batch.page_table + static_cast<int64_t>(params.batch.seq_idx[row]) * params.batch.page_table_stride;
  const EntrySource source{params.entries.data, page_table, page_shift, num_visible};
  Codes<kDim> codes[2 * kTiles];  // entries 8i + lane/4 of the warp's next 32
  load_entries<kDim>(source, begin, lane, codes);
  stage_heads<kDim>(params, row, num_head_tiles, shared);
  __syncthreads();

  Bf16* scores = params.scores + static_cast<int64_t>(blockIdx.x) * params.score_stride;
  for (; begin < num_visible; begin += stride) {
    uint32_t entries[kTiles][Shape::kSteps][4];
#pragma unroll
    for (int i = 0; i < 2 * kTiles; ++i) {
      const uint32_t scale = bf16_scale_pair(codes[i].scale);
#pragma unroll
      for (int word = 0; word < Shape::kWords; ++word) {
        const uint4 pairs = decode_word(codes[i].words[word], scale);
        entries[i / 2][2 * word][i % 2] = pairs.x;
        entries[i / 2][2 * word][i % 2 + 2] = pairs.y;
        entries[i / 2][2 * word + 1][i % 2] = pairs.z;
        entries[i / 2][2 * word + 1][i % 2 + 2] = pairs.w;
      }
    }
    if (begin + stride < num_visible) load_entries<kDim>(source, begin + stride, lane, codes);

    float sums[2 * kTiles] = {};  // entries 8i + lane/4
    for (int tile = 0; tile < num_head_tiles; ++tile) {
      float dots[kTiles][4] = {};
#pragma unroll
      for (int word = 0; word < Shape::kWords; ++word) {
        const uint4 heads = shared.heads[tile][word][lane];
#pragma unroll
        for (int t = 0; t < kTiles; ++t) ptx::mma_m16n8k16_bf16(dots[t], entries[t][2 * word], heads.x, heads.y);
#pragma unroll
        for (int t = 0; t < kTiles; ++t) ptx::mma_m16n8k16_bf16(dots[t], entries[t][2 * word + 1], heads.z, heads.w);
      }
      const uint32_t weights = shared.weights[tile * (kHeadTile / 2) + lane % 4];
#pragma unroll
      for (int i = 0; i < 2 * kTiles; ++i) {
        const uint32_t positive = ptx::convert_relu_bf16x2(dots[i / 2][i % 2 * 2 + 1], dots[i / 2][i % 2 * 2]);
        const uint32_t weighted = multiply_bf16x2(positive, weights);
        sums[i] = (sums[i] + low_to_float(weighted)) + high_to_float(weighted);
      }
    }
#pragma unroll
    for (int i = 0; i < 2 * kTiles; ++i) {
      sums[i] += __shfl_xor_sync(0xffffffffu, sums[i], 1);
      sums[i] += __shfl_xor_sync(0xffffffffu, sums[i], 2);
    }
    // Thread q of a quad writes sum q: 32 neighbouring scores of the warp.
    static_assert(kTiles == 2);
    const int quad_lane = lane % 4;
    const float sum = quad_lane == 0 ? sums[0] : quad_lane == 1 ? sums[1] : quad_lane == 2 ? sums[2] : sums[3];
    const int entry = begin + 8 * quad_lane + lane / 4;
    if (entry < num_visible) scores[entry] = float_to_bf16(sum);
  }
}

template <int kDim>
void launch_index_scores(Context& context, const IndexScoresParams& params) {
  const int num_rows = params.row_end - params.row_begin;
  if (num_rows <= 0) return;
  const int entries_per_page = params.entries.entries_per_page;
  if (entries_per_page < 4 || (entries_per_page & (entries_per_page - 1)) != 0) {
    fail_line("index_scores: %d entries per page, expected a power of two from 4 on", entries_per_page);
  }
  const int page_shift = __builtin_ctz(static_cast<unsigned>(entries_per_page));
  // As many CTAs as the GPU holds at once, divided between the rows, but no more than the longest row has work for.
  const int64_t resident = static_cast<int64_t>(kCtasPerSm) * context.num_sms;
  int64_t ctas_per_row = (resident + num_rows - 1) / num_rows;
  const int64_t useful = (params.score_stride + kCtaEntries - 1) / kCtaEntries;
  if (ctas_per_row > useful) ctas_per_row = useful;
  const int num_head_tiles = (params.num_heads + kHeadTile - 1) / kHeadTile;
  const LaunchConfig config{dim3(static_cast<unsigned>(num_rows), static_cast<unsigned>(ctas_per_row)), dim3(kThreads)};
  launch(context, "index_scores", index_scores_kernel<kDim>, config, params, page_shift, num_head_tiles);
}

}  // namespace

void index_scores(Context& context, const IndexScoresParams& params) {
  if (params.num_heads < 1 || params.num_heads > kMaxHeads) {
    fail_line("index_scores: %d heads, expected 1 to %d", params.num_heads, kMaxHeads);
  }
  if (params.index_head_dim == 128) {
    launch_index_scores<128>(context, params);
  } else if (params.index_head_dim == 64) {
    launch_index_scores<64>(context, params);
  } else {
    fail_line("index_scores: index_head_dim %d, expected 64 or 128", params.index_head_dim);
  }
}

}  // namespace dsv4::cuda
