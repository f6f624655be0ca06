// The boundary of two sub-layers (spec 2.3, ops/groups.h) in one launch, every part optional:
//   combine: y = bf( Σ_e fp32(routed_e) + fp32(shared) )            post: S[j] = bf( post[j]·y + Σ_i comb[i][j]·S[i] )
//   pre: m = (fn·S)·rsqrt(mean(S²) + eps), x = bf( Σ_h pre[h]·S[h] ), post and comb of the next sub-layer by Sinkhorn
//   norm: u = bf( x·rsqrt(mean(x²) + eps)·w )                       quantize: e4m3 codes and ue8m0 scales of u, 128 columns each
//
// A cluster computes a tile of up to 16 tokens, and up to 8 tiles one after the other. CTA r of C owns the columns [r·d/C, (r+1)·d/C) of
// all 4 streams; C is the largest of 16, 8, 4, 2, 1 that leaves whole blocks of 128 columns, so it depends on d alone.
//   jobs       a warp takes 128 columns of a token, a lane 4 of them in all streams: combine, post, later collapse, norm, quantize
//   products   m16n8k16 on tensor cores, 16 tokens × 24 mixes; fn is split into three bf16 parts (exact), the streams are bf16. The CTA's
//              4·d/C columns go to the 16 warps in units of 32; 2 units of each warp stand in registers and shared memory before the
//              streams come (d = 4096: all there are), more are fetched again for each tile
//   exchange   per token 24 dots and Σv²: sum over warps, stores to the CTAs that need them, cluster barrier, sum over ranks; then the same
//              for Σx². All sums have one order, given by d. The CTA with rank token mod C computes post and comb, off the critical path.
// Within a unit the K order is permuted so that lanes read 32 contiguous bytes of fn and 16 of the streams: lane q of 4 holds the columns
// 8q to 8q+7, the first 4 are columns 2q, 2q+1, 2q+8, 2q+9 of one product, the last 4 those of the next.
//
// Bytes per token, d = 4096, everything on: 7 rows of 8 KiB and 32 KiB streams read, 32 KiB streams, 8 KiB u and 4 KiB codes written: 132
// KiB, 31 µs per 1000 tokens at 4.3 TB/s. One token: fn (1.5 MiB) before the wait, then three round trips to L2 and two cluster barriers.
#include "backend/cuda/block/formats.h"
#include "backend/cuda/block/reduce.h"
#include "backend/cuda/ops.h"
#include "backend/cuda/ptx/cluster.h"
#include "backend/cuda/ptx/convert.h"
#include "backend/cuda/ptx/copy.h"
#include "backend/cuda/ptx/grid.h"
#include "backend/cuda/ptx/mma.h"
#include "backend/cuda/sm90/mhc_boundary.h"
#include "backend/cuda/tune/token_tiles.h"

namespace dsv4::cuda {
namespace {

constexpr int kStreams = 4;
constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kMaxTokens = 16;  // of a tile
constexpr int kMaxMixes = 24;
constexpr int kMixTiles = kMaxMixes / 8;
constexpr int kMaxRanks = 16;
constexpr int kBlock = 128;  // columns of a job
constexpr int kMaxBlocks = 7168 / kBlock;
constexpr int kMaxSelected = 32;
constexpr int kSquares = kMaxMixes;             // where Σv² stands after the dots of a token
constexpr int kPartials = 28;                   // dots and Σv² of a token and warp, padded
constexpr int kCommonDots = kStreams + 1;       // that every CTA needs: those of pre, then Σv²
constexpr int kOwnDots = kMaxMixes - kStreams;  // that only the token's owner needs: those of post and comb
constexpr int kUnitsAtOnce = 2;                 // units of a warp whose part of fn it holds
constexpr int kMaxSharedBytes = 227 * 1024;

// Followed by the norm's weights [columns] and the stream tile [tile_tokens][row_bytes].
struct alignas(16) BoundaryShared {
  uint4 low_parts[kUnitsAtOnce][kMixTiles][kThreads];  // of fn, each thread its own: registers do not hold all three parts
  float partials[kWarps][kMaxTokens][kPartials];
  // What the ranks send, by tile parity: a warp may still read one while the next tile's come.
  float common_dots[2][kMaxTokens][kCommonDots][kMaxRanks];
  float own_dots[2][kMaxTokens * kOwnDots];  // [token / num_ranks][kOwnDots][num_ranks]
  float squares[kMaxTokens][kMaxBlocks];     // Σx² by block of the row
  float base[kMaxMixes];
  float scale[4];
};

// Where a thread works.
struct Place {
  int rank;
  int warp;
  int lane;
};

// fp32 pairs as the sum of three bf16 pairs, exactly.
struct SplitPair {
  uint32_t high;
  uint32_t middle;
  uint32_t low;
};
// The upper parts of one mix tile's operand of one product: rows 2q, 2q+1 and 2q+8, 2q+9 of column g.
struct UpperParts {
  uint32_t high[2];
  uint32_t middle[2];
};

__device__ __forceinline__ SplitPair split(float first, float second) {
  SplitPair parts;
  parts.high = ptx::convert_bf16x2(second, first);
  first = __fsub_rn(first, low_to_float(parts.high));
  second = __fsub_rn(second, high_to_float(parts.high));
  parts.middle = ptx::convert_bf16x2(second, first);
  first = __fsub_rn(first, low_to_float(parts.middle));
  second = __fsub_rn(second, high_to_float(parts.middle));
  parts.low = ptx::convert_bf16x2(second, first);
  return parts;
}

__device__ __forceinline__ float4 to_float4(uint2 four) {
  return make_float4(low_to_float(four.x), high_to_float(four.x), low_to_float(four.y), high_to_float(four.y));
}
__device__ __forceinline__ uint2 to_bf16x4(float4 v) {
  return make_uint2(ptx::convert_bf16x2(v.y, v.x), ptx::convert_bf16x2(v.w, v.z));
}
__device__ __forceinline__ float4 multiply(float factor, float4 v) {
  return make_float4(__fmul_rn(factor, v.x), __fmul_rn(factor, v.y), __fmul_rn(factor, v.z), __fmul_rn(factor, v.w));
}
__device__ __forceinline__ float4 add(float4 a, float4 b) {
  return make_float4(__fadd_rn(a.x, b.x), __fadd_rn(a.y, b.y), __fadd_rn(a.z, b.z), __fadd_rn(a.w, b.w));
}
__device__ __forceinline__ uint2 load_4(const Bf16* global) {
  return *reinterpret_cast<const uint2*>(global);
}
__device__ __forceinline__ float sigmoid(float x) {
  return 1.0f / (1.0f + expf(-x));
}

// 4 columns of y from the experts' rows, in ascending expert id. The whole warp works on one token.
__device__ __forceinline__ uint2 combine_columns(const MhcBoundary& op, int64_t token, int column, int lane) {
  const int32_t id = lane < op.num_selected ? op.experts[token * op.num_selected + lane] : -1;
  int rank = 0;  // of this lane's slot among the valid ones
  for (int slot = 0; slot < op.num_selected; ++slot) {
    const int32_t other = __shfl_sync(0xffffffffu, id, slot);
    rank += other >= 0 && (other < id || (other == id && slot < lane)) ? 1 : 0;
  }
  int order = 0;  // lane r: the slot of rank r
  for (int slot = 0; slot < op.num_selected; ++slot) {
    const int slot_rank = __shfl_sync(0xffffffffu, id >= 0 ? rank : -1, slot);
    order = slot_rank == lane ? slot : order;
  }
  const int count = __popc(__ballot_sync(0xffffffffu, id >= 0));
  constexpr int kGroup = 6;  // rows in flight
  const Bf16* rows = op.routed + token * op.num_selected * op.hidden_size + column;
  float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 1
  for (int begin = 0; begin < count; begin += kGroup) {
    uint2 values[kGroup];
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      const int slot = __shfl_sync(0xffffffffu, order, begin + i);
      if (begin + i < count) values[i] = load_4(rows + slot * op.hidden_size);
    }
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      if (begin + i < count) sum = add(sum, to_float4(values[i]));
    }
  }
  return to_bf16x4(add(sum, to_float4(load_4(op.shared + token * op.hidden_size + column))));
}

// Job: 128 columns of a token, up to and including the new streams, which also go to the token's row of the stream tile.
__device__ __forceinline__ void make_streams(const MhcBoundary& op, const Place& place, int64_t token, int block, unsigned char* tile_row) {
  const int local_column = block * kBlock + 4 * place.lane;
  const int column = place.rank * op.columns + local_column;
  Bf16* streams = op.streams + token * kStreams * op.hidden_size + column;
  uint2 four[kStreams] = {};  // the lane's columns of each stream
  if (op.post != nullptr || op.fn != nullptr) {
#pragma unroll
    for (int h = 0; h < kStreams; ++h) four[h] = load_4(streams + static_cast<int64_t>(h) * op.hidden_size);
  }
  float mix = 0.0f;  // comb[i][j] in lane 4·i + j, post[j] in lane 16 + j
  if (op.post != nullptr) {
    if (place.lane < kStreams * kStreams) mix = op.comb[token * kStreams * kStreams + place.lane];
    if (place.lane / kStreams == kStreams) mix = op.post[token * kStreams + place.lane % kStreams];
  }
  uint2 y = {};
  if (op.routed != nullptr) {
    y = combine_columns(op, token, column, place.lane);
    if (op.post == nullptr) *reinterpret_cast<uint2*>(op.combined + token * op.hidden_size + column) = y;
  } else if (op.post != nullptr) {
    y = load_4(op.y + token * op.hidden_size + column);
  }
  if (op.post != nullptr) {
    const float4 y_values = to_float4(y);
    float4 sums[kStreams];
#pragma unroll
    for (int j = 0; j < kStreams; ++j) sums[j] = multiply(__shfl_sync(0xffffffffu, mix, kStreams * kStreams + j), y_values);
#pragma unroll
    for (int i = 0; i < kStreams; ++i) {
      const float4 old = to_float4(four[i]);
#pragma unroll
      for (int j = 0; j < kStreams; ++j) sums[j] = add(sums[j], multiply(__shfl_sync(0xffffffffu, mix, kStreams * i + j), old));
    }
#pragma unroll
    for (int h = 0; h < kStreams; ++h) {
      four[h] = to_bf16x4(sums[h]);
      *reinterpret_cast<uint2*>(streams + static_cast<int64_t>(h) * op.hidden_size) = four[h];
    }
  }
  if (op.fn == nullptr) return;
#pragma unroll
  for (int h = 0; h < kStreams; ++h) *reinterpret_cast<uint2*>(tile_row + 2 * (h * op.columns + local_column)) = four[h];
}

// Asks for the lines that make_streams will read for 128 columns of a token: 2 per row, one per lane.
__device__ __forceinline__ void prefetch_streams(const MhcBoundary& op, const Place& place, int64_t token, int block) {
  const int row = place.lane / 2;
  const int column = place.rank * op.columns + block * kBlock + place.lane % 2 * (kBlock / 2);
  const Bf16* address = nullptr;
  if (row < kStreams) {
    address = op.streams + (token * kStreams + row) * op.hidden_size;
  } else if (row == kStreams) {
    const Bf16* rows = op.routed != nullptr ? op.shared : op.y;
    if (rows != nullptr) address = rows + token * op.hidden_size;
  } else if (op.routed != nullptr && row - kStreams - 1 < op.num_selected) {
    address = op.routed + (token * op.num_selected + row - kStreams - 1) * op.hidden_size;
  }
  if (address != nullptr) ptx::prefetch_l2(address + column);
}

// This thread's part of fn for unit `unit` of the CTA: 8 columns of rows g, g+8, g+16. Lower parts go to low_parts[tile][threadIdx.x].
__device__ __forceinline__ void load_projection(const MhcBoundary& op, const Place& place, int unit, UpperParts (&fn)[kMixTiles][2],
                                                uint4 (&low_parts)[kMixTiles][kThreads]) {
  const int stream = 32 * unit / op.columns;
  const int column = place.rank * op.columns + 32 * unit % op.columns + 8 * (place.lane % 4);
  float4 values[kMixTiles][2];
#pragma unroll
  for (int tile = 0; tile < kMixTiles; ++tile) {
    const int mix = 8 * tile + place.lane / 4;
    const float* row = op.fn + (static_cast<int64_t>(mix) * kStreams + stream) * op.hidden_size + column;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      values[tile][half] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      if (mix < op.num_mixes) values[tile][half] = __ldg(reinterpret_cast<const float4*>(row) + half);
    }
  }
#pragma unroll
  for (int tile = 0; tile < kMixTiles; ++tile) {
    uint32_t low[4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float4 v = values[tile][half];
      const SplitPair k0 = split(v.x, v.y);
      const SplitPair k8 = split(v.z, v.w);
      fn[tile][half] = {{k0.high, k8.high}, {k0.middle, k8.middle}};
      low[2 * half] = k0.low;
      low[2 * half + 1] = k8.low;
    }
    low_parts[tile][threadIdx.x] = make_uint4(low[0], low[1], low[2], low[3]);
  }
}

__device__ __forceinline__ float sum_of_squares(float sum, uint32_t pair) {
  sum = fmaf(low_to_float(pair), low_to_float(pair), sum);
  return fmaf(high_to_float(pair), high_to_float(pair), sum);
}

// dots += the products of one unit, squares[] += Σv² of tokens g and g+8.
__device__ __forceinline__ void project(const MhcBoundary& op, const unsigned char* tile, const Place& place, int num_tokens, int unit,
                                        const UpperParts (&fn)[kMixTiles][2], const uint4 (&low_parts)[kMixTiles][kThreads],
                                        float (&dots)[kMixTiles][4], float (&squares)[2]) {
  const int g = place.lane / 4;
  const unsigned char* address = tile + g * op.row_bytes + 64 * unit + 16 * (place.lane % 4);
  uint4 top = {}, bottom = {};
  if (g < num_tokens) top = *reinterpret_cast<const uint4*>(address);
  if (g + 8 < num_tokens) bottom = *reinterpret_cast<const uint4*>(address + 8 * op.row_bytes);
  squares[0] = sum_of_squares(sum_of_squares(sum_of_squares(sum_of_squares(squares[0], top.x), top.y), top.z), top.w);
  squares[1] = sum_of_squares(sum_of_squares(sum_of_squares(sum_of_squares(squares[1], bottom.x), bottom.y), bottom.z), bottom.w);
  const uint32_t a[2][4] = {{top.x, bottom.x, top.y, bottom.y}, {top.z, bottom.z, top.w, bottom.w}};
#pragma unroll
  for (int mix_tile = 0; mix_tile < kMixTiles; ++mix_tile) {
    const uint4 low = low_parts[mix_tile][threadIdx.x];
    ptx::mma_m16n8k16_bf16(dots[mix_tile], a[0], low.x, low.y);
    ptx::mma_m16n8k16_bf16(dots[mix_tile], a[1], low.z, low.w);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int mix_tile = 0; mix_tile < kMixTiles; ++mix_tile) {
      const UpperParts& b = fn[mix_tile][half];
      ptx::mma_m16n8k16_bf16(dots[mix_tile], a[half], b.middle[0], b.middle[1]);
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int mix_tile = 0; mix_tile < kMixTiles; ++mix_tile) {
      const UpperParts& b = fn[mix_tile][half];
      ptx::mma_m16n8k16_bf16(dots[mix_tile], a[half], b.high[0], b.high[1]);
    }
  }
}

// This warp's sums to shared memory.
__device__ __forceinline__ void store_partials(BoundaryShared& shared, const Place& place, int num_tokens,
                                               const float (&dots)[kMixTiles][4], const float (&squares)[2]) {
  const int g = place.lane / 4;
  const int q = place.lane % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = squares[half];
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    const int token = g + 8 * half;
    if (token >= num_tokens) continue;
    float* partials = shared.partials[place.warp][token];
#pragma unroll
    for (int tile = 0; tile < kMixTiles; ++tile) {
      *reinterpret_cast<float2*>(partials + 8 * tile + 2 * q) = make_float2(dots[tile][2 * half], dots[tile][2 * half + 1]);
    }
    if (q == 0) partials[kSquares] = sum;
  }
}

// The CTA's sums to the CTAs that need them: those of pre and Σv² to all, the others to the token's owner.
__device__ __forceinline__ void send_dots(const MhcBoundary& op, BoundaryShared& shared, const Place& place, int num_tokens, int parity) {
  constexpr int kValues = kMaxMixes + 1;
  for (int i = static_cast<int>(threadIdx.x); i < num_tokens * kValues; i += kThreads) {
    const int token = i / kValues;
    const int value = i % kValues;
    if (value != kSquares && value >= op.num_mixes) continue;
    float sum = 0.0f;
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) sum += shared.partials[warp][token][value];
    if (value < kStreams || value == kSquares) {
      const float* target = &shared.common_dots[parity][token][min(value, kStreams)][place.rank];
      for (int rank = 0; rank < op.num_ranks; ++rank) ptx::store_cluster(ptx::map_shared(target, rank), sum);
    } else {
      const int place_of_value = token / op.num_ranks * kOwnDots + value - kStreams;
      const float* target = &shared.own_dots[parity][place_of_value * op.num_ranks + place.rank];
      ptx::store_cluster(ptx::map_shared(target, token % op.num_ranks), sum);
    }
  }
}

// Sum over the ranks of the lane's common dot, and rsqrt(mean(v²) + eps) in all lanes.
struct CommonDots {
  float dot;
  float factor;
};
__device__ __forceinline__ CommonDots receive_common_dots(const MhcBoundary& op, const float (&dots)[kCommonDots][kMaxRanks],
                                                          const Place& place) {
  float sum = 0.0f;
  if (place.lane < kCommonDots) {
    for (int rank = 0; rank < op.num_ranks; ++rank) sum += dots[place.lane][rank];
  }
  const float mean = __shfl_sync(0xffffffffu, sum, kStreams) / static_cast<float>(kStreams * op.hidden_size);
  return {sum, 1.0f / sqrtf(mean + op.mix_eps)};
}

// Job: x of 128 columns, to x itself or, for the norm, to the place of stream 0 in the tile; Σx² of the block to all CTAs.
__device__ __forceinline__ void collapse(const MhcBoundary& op, BoundaryShared& shared, const Place& place, int64_t token, int tile_token,
                                         int block, int parity, unsigned char* tile_row) {
  const CommonDots common = receive_common_dots(op, shared.common_dots[parity][tile_token], place);
  const float mix = __fmul_rn(common.dot, common.factor);
  const int stream = place.lane % kStreams;
  const float pre = __fadd_rn(sigmoid(__fadd_rn(__fmul_rn(mix, shared.scale[0]), shared.base[stream])), op.hc_eps);
  const int local_column = block * kBlock + 4 * place.lane;
  float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
  for (int h = 0; h < kStreams; ++h) {
    const float4 v = to_float4(*reinterpret_cast<const uint2*>(tile_row + 2 * (h * op.columns + local_column)));
    sum = add(sum, multiply(__shfl_sync(0xffffffffu, pre, h), v));
  }
  const uint2 x = to_bf16x4(sum);
  if (op.norm_weight == nullptr) {
    *reinterpret_cast<uint2*>(op.x + token * op.hidden_size + place.rank * op.columns + local_column) = x;
    return;
  }
  *reinterpret_cast<uint2*>(tile_row + 2 * local_column) = x;
  const float squares = warp_sum(sum_of_squares(sum_of_squares(0.0f, x.x), x.y));
  if (place.lane < op.num_ranks) {
    ptx::store_cluster(ptx::map_shared(&shared.squares[tile_token][place.rank * op.blocks + block], place.lane), squares);
  }
}

// Sinkhorn (spec 2.3 step 4) on a[4·i + j], in the same way in every lane. After the first column step A stays u[i]·a[i][j]·v[j].
__device__ __forceinline__ void sinkhorn(int iterations, float eps, float (&a)[16]) {
  float u[4], v[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float* row = a + 4 * i;
    const float max = fmaxf(fmaxf(row[0], row[1]), fmaxf(row[2], row[3]));
#pragma unroll
    for (int j = 0; j < 4; ++j) row[j] = expf(row[j] - max);
    const float sum = row[0] + row[1] + row[2] + row[3];
#pragma unroll
    for (int j = 0; j < 4; ++j) row[j] = row[j] / sum + eps;
    u[i] = 1.0f;
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) v[j] = 1.0f / (a[j] + a[4 + j] + a[8 + j] + a[12 + j] + eps);
  for (int iteration = 1; iteration < iterations; ++iteration) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float sum = fmaf(a[4 * i], v[0], a[4 * i + 1] * v[1]) + fmaf(a[4 * i + 2], v[2], a[4 * i + 3] * v[3]);
      u[i] = __fdividef(u[i], fmaf(u[i], sum, eps));
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float sum = fmaf(a[j], u[0], a[4 + j] * u[1]) + fmaf(a[8 + j], u[2], a[12 + j] * u[3]);
      v[j] = __fdividef(v[j], fmaf(v[j], sum, eps));
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) a[4 * i + j] *= u[i] * v[j];
  }
}

// post and comb of a token for the next sub-layer, by one warp of the token's owner.
__device__ __forceinline__ void write_mixes(const MhcBoundary& op, const BoundaryShared& shared, const Place& place, int64_t token,
                                            int tile_token, int parity) {
  const float factor = receive_common_dots(op, shared.common_dots[parity][tile_token], place).factor;
  const float* dots = shared.own_dots[parity] + tile_token / op.num_ranks * kOwnDots * op.num_ranks;
  float dot = 0.0f;  // lanes 0 to 3: of post, 4 to 19: of comb
  if (place.lane < kOwnDots) {
    for (int rank = 0; rank < op.num_ranks; ++rank) dot += dots[place.lane * op.num_ranks + rank];
  }
  const bool is_post = place.lane < kStreams;
  const float bias = shared.base[kStreams + min(place.lane, kOwnDots - 1)];
  const float logit = __fadd_rn(__fmul_rn(__fmul_rn(dot, factor), shared.scale[is_post ? 1 : 2]), bias);
  if (is_post) op.next_post[token * kStreams + place.lane] = 2.0f * sigmoid(logit);
  float a[kStreams * kStreams];
#pragma unroll
  for (int k = 0; k < kStreams * kStreams; ++k) a[k] = __shfl_sync(0xffffffffu, logit, kStreams + k);
  sinkhorn(op.sinkhorn_iters, op.hc_eps, a);
#pragma unroll
  for (int i = 0; i < kStreams; ++i) {
    if (place.lane != i) continue;
    reinterpret_cast<float4*>(op.next_comb + token * kStreams * kStreams)[i] =
        make_float4(a[4 * i], a[4 * i + 1], a[4 * i + 2], a[4 * i + 3]);
  }
}

// Job: u of 128 columns, and its codes and scale.
__device__ __forceinline__ void normalize(const MhcBoundary& op, const BoundaryShared& shared, const Place& place, int64_t token,
                                          int tile_token, int block, const Bf16* weights, const unsigned char* tile_row) {
  float sum = 0.0f;
  const int num_blocks = op.num_ranks * op.blocks;
  for (int i = place.lane; i < num_blocks; i += 32) sum += shared.squares[tile_token][i];
  const float mean = warp_sum(sum) / static_cast<float>(op.hidden_size);
  const float factor = 1.0f / sqrtf(mean + op.rms_eps);
  const int local_column = block * kBlock + 4 * place.lane;
  const float4 x = to_float4(*reinterpret_cast<const uint2*>(tile_row + 2 * local_column));
  const float4 weight = to_float4(load_4(weights + local_column));
  float4 scaled = multiply(factor, x);
  scaled = make_float4(__fmul_rn(scaled.x, weight.x), __fmul_rn(scaled.y, weight.y), __fmul_rn(scaled.z, weight.z),
                       __fmul_rn(scaled.w, weight.w));
  const uint2 rounded = to_bf16x4(scaled);
  const int64_t offset = token * op.hidden_size + place.rank * op.columns + local_column;
  *reinterpret_cast<uint2*>(op.normed + offset) = rounded;
  if (op.codes == nullptr) return;
  const float4 u = to_float4(rounded);
  const float amax = warp_max(fmaxf(fmaxf(fabsf(u.x), fabsf(u.y)), fmaxf(fabsf(u.z), fabsf(u.w))));
  const uint32_t scale = fp8_scale_code(amax);
  const float4 v = multiply(inverse_scale(scale), u);
  const uint32_t low = ptx::convert_e4m3x2(v.y, v.x);
  const uint32_t high = ptx::convert_e4m3x2(v.w, v.z);
  *reinterpret_cast<uint32_t*>(op.codes + offset) = low | (high << 16);
  if (op.values != nullptr) {
    *reinterpret_cast<uint2*>(op.values + offset) = e4m3x4_values(low | (high << 16), bf16_scale_pair(scale));
  }
  if (place.lane == 0) op.scales[token * num_blocks + place.rank * op.blocks + block] = static_cast<uint8_t>(scale);
}

__global__ void __launch_bounds__(kThreads, 1) boundary_kernel(const __grid_constant__ MhcBoundary op) {
  extern __shared__ __align__(16) unsigned char memory[];
  BoundaryShared& shared = *reinterpret_cast<BoundaryShared*>(memory);
  const Place place = {static_cast<int>(ptx::cluster_rank()), static_cast<int>(threadIdx.x) / 32, static_cast<int>(threadIdx.x) % 32};
  Bf16* weights = reinterpret_cast<Bf16*>(memory + sizeof(BoundaryShared));
  unsigned char* tile = memory + sizeof(BoundaryShared) + 2 * op.columns;

  // Weights first: they do not wait for the kernels before this one.
  UpperParts fn[kUnitsAtOnce][kMixTiles][2];
  if (op.fn != nullptr) {
    load_projection(op, place, place.warp, fn[0], shared.low_parts[0]);
    if (op.blocks > 1) load_projection(op, place, place.warp + kWarps, fn[1], shared.low_parts[1]);
    if (static_cast<int>(threadIdx.x) < op.num_mixes) shared.base[threadIdx.x] = op.base[threadIdx.x];
    if (threadIdx.x < (op.next_comb != nullptr ? 3 : 1)) shared.scale[threadIdx.x] = op.scale[threadIdx.x];
    if (op.norm_weight != nullptr) {
      for (int i = 4 * threadIdx.x; i < op.columns; i += 4 * kThreads) {
        *reinterpret_cast<uint2*>(weights + i) = load_4(op.norm_weight + place.rank * op.columns + i);
      }
    }
    ptx::cluster_sync();  // every CTA runs before others store into its shared memory
  }
  ptx::grid_dependency_wait();
  ptx::grid_launch_dependents();

  const int first_tile = static_cast<int>(blockIdx.x) / op.num_ranks * op.tiles_per_cluster;
  for (int tile_idx = first_tile; tile_idx < first_tile + op.tiles_per_cluster; ++tile_idx) {
    const int tile_begin = tile_idx * op.tile_tokens;
    const int num_tokens = min(op.tile_tokens, op.num_tokens - tile_begin);
    if (num_tokens <= 0) break;
    const int num_jobs = num_tokens * op.blocks;
    const int parity = tile_idx & 1;
#pragma unroll 1  // unrolled, jobs would not fit the registers
    for (int job = place.warp; job < num_jobs; job += kWarps) {
      const int token = job / op.blocks;
      make_streams(op, place, tile_begin + token, job % op.blocks, tile + token * op.row_bytes);
    }
    if (op.fn == nullptr) continue;
    if (tile_idx + 1 < first_tile + op.tiles_per_cluster) {
#pragma unroll 1
      for (int job = place.warp; job < op.tile_tokens * op.blocks; job += kWarps) {
        const int64_t token = tile_begin + op.tile_tokens + job / op.blocks;
        if (token < op.num_tokens) prefetch_streams(op, place, token, job % op.blocks);
      }
    }
    __syncthreads();

    float dots[kMixTiles][4] = {};
    float squares[2] = {};
    for (int round = 0; round < op.blocks; round += kUnitsAtOnce) {
      const int unit = place.warp + round * kWarps;
      if (op.blocks > kUnitsAtOnce && (round > 0 || tile_idx > first_tile)) {
        load_projection(op, place, unit, fn[0], shared.low_parts[0]);
        if (round + 1 < op.blocks) load_projection(op, place, unit + kWarps, fn[1], shared.low_parts[1]);
      }
      project(op, tile, place, num_tokens, unit, fn[0], shared.low_parts[0], dots, squares);
      if (round + 1 < op.blocks) project(op, tile, place, num_tokens, unit + kWarps, fn[1], shared.low_parts[1], dots, squares);
    }
    store_partials(shared, place, num_tokens, dots, squares);
    __syncthreads();
    send_dots(op, shared, place, num_tokens, parity);
    __syncwarp();
    ptx::cluster_sync();

#pragma unroll 1
    for (int job = place.warp; job < num_jobs; job += kWarps) {
      const int token = job / op.blocks;
      collapse(op, shared, place, tile_begin + token, token, job % op.blocks, parity, tile + token * op.row_bytes);
    }
    __syncwarp();
    if (op.norm_weight != nullptr) {
      ptx::cluster_sync();
#pragma unroll 1
      for (int job = place.warp; job < num_jobs; job += kWarps) {
        const int token = job / op.blocks;
        normalize(op, shared, place, tile_begin + token, token, job % op.blocks, weights, tile + token * op.row_bytes);
      }
    }
    // From the last warp down: with few tokens these have nothing to normalize.
    const int owned_token = place.rank + op.num_ranks * (kWarps - 1 - place.warp);
    if (op.next_comb != nullptr && owned_token < num_tokens) {
      write_mixes(op, shared, place, tile_begin + owned_token, owned_token, parity);
    }
  }
}

void require_hc_mult(const char* op, int hc_mult) {
  if (hc_mult != kStreams) fail_line("%s: hc_mult %d, expected %d", op, hc_mult, kStreams);
}

}  // namespace

void MhcBoundary::set(const CombineParams& params) {
  if (params.num_selected < 0 || params.num_selected > kMaxSelected) {
    fail_line("combine: num_selected %d, expected 0 to %d", params.num_selected, kMaxSelected);
  }
  routed = params.routed;
  experts = params.experts;
  shared = params.shared;
  combined = params.out;
  num_selected = params.num_selected;
  num_tokens = params.num_tokens;
  hidden_size = params.hidden_size;
}

void MhcBoundary::set(const char* op, const MhcPostParams& params) {
  require_hc_mult(op, params.hc_mult);
  post = params.post;
  comb = params.comb;
  y = params.y;
  streams = params.streams;
  num_tokens = params.num_tokens;
  hidden_size = params.hidden_size;
}

void MhcBoundary::set(const char* op, const MhcPreParams& params) {
  require_hc_mult(op, params.hc_mult);
  fn = params.fn;
  base = params.base;
  scale = params.scale;
  x = params.x;
  next_post = params.post;
  next_comb = params.comb;
  num_mixes = kMaxMixes;
  sinkhorn_iters = params.sinkhorn_iters;
  mix_eps = params.norm_eps;
  hc_eps = params.hc_eps;
  streams = const_cast<Bf16*>(params.streams);  // read only unless `post` is set
  num_tokens = params.num_tokens;
  hidden_size = params.hidden_size;
}

void MhcBoundary::set(const char* op, const MhcHeadParams& params) {
  require_hc_mult(op, params.hc_mult);
  fn = params.fn;
  base = params.base;
  scale = params.scale;
  x = params.x;
  num_mixes = kStreams;
  mix_eps = params.norm_eps;
  hc_eps = params.hc_eps;
  streams = const_cast<Bf16*>(params.streams);
  num_tokens = params.num_tokens;
  hidden_size = params.hidden_size;
}

void MhcBoundary::set(const char* op, const RmsNormParams& params) {
  if (params.num_rows != num_tokens || params.dim != hidden_size || params.x != x) {
    fail_line("%s: norm of %d rows of %d, expected the %d rows of %d before it", op, params.num_rows, params.dim, num_tokens, hidden_size);
  }
  norm_weight = params.weight;
  normed = params.out;
  rms_eps = params.eps;
}

void MhcBoundary::set(const QuantizeParams& params) {
  if (params.num_rows != num_tokens || params.dim != hidden_size || params.x != normed) {
    fail_line("boundary: quantize of %d rows of %d, expected the %d rows of %d before it", params.num_rows, params.dim, num_tokens,
              hidden_size);
  }
  codes = params.codes;
  scales = params.scales;
  values = params.values;
}

void launch_boundary(Context& context, const char* op, MhcBoundary boundary) {
  if (boundary.num_tokens <= 0) return;
  const int blocks = boundary.hidden_size / kBlock;
  if (boundary.hidden_size % kBlock != 0 || blocks < 1 || blocks > kMaxBlocks) {
    fail_line("%s: hidden_size %d, expected a multiple of %d from %d to %d", op, boundary.hidden_size, kBlock, kBlock, kMaxBlocks * kBlock);
  }
  int cluster_size = kMaxRanks;
  while (blocks % cluster_size != 0) cluster_size /= 2;
  boundary.num_ranks = cluster_size;
  boundary.columns = boundary.hidden_size / cluster_size;
  boundary.blocks = boundary.columns / kBlock;
  boundary.row_bytes = 2 * kStreams * boundary.columns + 64;
  const int fixed_bytes = static_cast<int>(sizeof(BoundaryShared)) + 2 * boundary.columns;
  const int max_tokens = std::min(kMaxTokens, (kMaxSharedBytes - fixed_bytes) / boundary.row_bytes);
  const TokenTiles tiles = token_tiles(boundary.num_tokens, max_tokens, cluster_size, context.num_sms);
  boundary.tile_tokens = tiles.tile_tokens;
  boundary.tiles_per_cluster = tiles.tiles_per_cluster;
  LaunchConfig config;
  config.grid = dim3(static_cast<unsigned>(tiles.num_clusters * cluster_size));
  config.block = dim3(kThreads);
  config.shared_bytes = boundary.fn == nullptr ? 0 : static_cast<size_t>(fixed_bytes + tiles.tile_tokens * boundary.row_bytes);
  config.cluster_size = cluster_size;
  launch(context, op, boundary_kernel, config, boundary);
}

void mhc_pre(Context& context, const MhcPreParams& params) {
  MhcBoundary boundary;
  boundary.set("mhc_pre", params);
  launch_boundary(context, "mhc_pre", boundary);
}

void boundary(Context& context, const BoundaryParams& params) {
  MhcBoundary boundary;
  if (params.combine != nullptr) boundary.set(*params.combine);
  if (params.post != nullptr) boundary.set("boundary", *params.post);
  if (params.pre != nullptr) boundary.set("boundary", *params.pre);
  if (params.pre != nullptr && params.norm != nullptr) boundary.set("boundary", *params.norm);
  if (params.pre != nullptr && params.norm != nullptr && params.quantize != nullptr) boundary.set(*params.quantize);
  const auto require_that = [](bool condition, const char* what) {
    if (!condition) fail_line("boundary: expected %s", what);
  };
  if (params.combine != nullptr) {
    require_that(params.combine->num_tokens == boundary.num_tokens && params.combine->hidden_size == boundary.hidden_size,
                 "combine and the parts after it to have one size");
    require_that(params.post == nullptr || params.combine->out == params.post->y, "combine to make the y of post");
  }
  if (params.post != nullptr && params.pre != nullptr) {
    require_that(params.post->num_tokens == boundary.num_tokens && params.post->hidden_size == boundary.hidden_size,
                 "post and pre to have one size");
    require_that(params.post->streams == params.pre->streams, "post and pre to have the same streams");
    require_that(boundary.num_tokens == 0 || (params.post->post != params.pre->post && params.post->comb != params.pre->comb),
                 "pre to write another post and comb than post reads");
  }
  launch_boundary(context, "boundary", boundary);
}

}  // namespace dsv4::cuda
