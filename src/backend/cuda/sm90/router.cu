// Router (spec 2.11, steps 1–3) in one launch: z = x·Wᵀ in fp32, σ = sqrt(softplus(z)), the largest σ + bias or the row of tid2eid,
// weights.
//
// A cluster computes a tile of up to 16 tokens, and up to 8 tiles one after the other. Its C CTAs share the experts in groups of 8 (C is
// the largest of 16, 8, 4, 2, 1 with at least 8 experts per CTA, so it depends on their number alone): 16 experts per CTA of 256, 24 of
// 384.
//   products   m16n8k16, bf16 with fp32 sums: 16 tokens × 8 experts; units of 32 columns go round the 16 warps. Up to 8 units × 16 experts
//              of a warp stand in registers (64), loaded before the tokens come; what is more is fetched again for each tile
//   exchange   sum over warps through shared memory, σ to the CTA of rank token mod C through distributed shared memory
//   selection  a warp per token: num_selected times the maximum over the lanes, 12 experts each
// Within a unit the K order is permuted so that a lane reads 16 contiguous bytes of both operands: lane q of 4 holds the columns 8q to
// 8q+7, the first 4 are columns 2q, 2q+1, 2q+8, 2q+9 of one product, the last 4 those of the next.
//
// One token at d = 4096, 256 experts: the gate (2 MiB) from 16 SMs before the wait, then x, a cluster barrier and the selection. Many
// tokens: every CTA reads x of its tile, 2 MiB of L2 reads per 16 tokens.
#include "backend/cuda/block/formats.h"
#include "backend/cuda/ops.h"
#include "backend/cuda/ptx/cluster.h"
#include "backend/cuda/ptx/grid.h"
#include "backend/cuda/ptx/mma.h"
#include "backend/cuda/tune/token_tiles.h"

namespace dsv4::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kMaxTokens = 16;  // of a tile
constexpr int kMaxRanks = 16;
constexpr int kMaxExperts = 384;
constexpr int kMaxSelected = 32;
constexpr int kLaneExperts = kMaxExperts / 32;
constexpr int kUnit = 32;        // columns
constexpr int kUnitsAtOnce = 8;  // of a warp, whose part of the gate it holds
constexpr int kUnitGroup = 4;    // whose part of x it holds
constexpr int kTilesAtOnce = 2;  // of 8 experts
constexpr int kMaxCtaExperts = 24;
constexpr int kPartialStride = kMaxCtaExperts + 2;

struct RouterShared {
  float partials[kWarps][kMaxTokens][kPartialStride];
  float scores[2][kMaxTokens][kMaxExperts];  // σ, by tile parity: a warp may still select from one while the next tile's come
};

struct Routing {
  RouterParams op;
  int tile_tokens;
  int tiles_per_cluster;
  int num_ranks;
  int cta_experts;  // a multiple of 8
};

// This warp's part of the gate: experts 8·first_tile… of the CTA, units first_unit, first_unit + 16, …
__device__ __forceinline__ void load_gate(const Routing& routing, int rank, int first_tile, int first_unit,
                                          uint4 (&gate)[kTilesAtOnce][kUnitsAtOnce]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const Bf16Weight& weight = routing.op.gate;
#pragma unroll
  for (int tile = 0; tile < kTilesAtOnce; ++tile) {
    const int cta_expert = 8 * (first_tile + tile) + lane / 4;
    const int expert = rank * routing.cta_experts + cta_expert;
    const bool valid = cta_expert < routing.cta_experts && expert < weight.rows;
    const Bf16* row = weight.data + static_cast<int64_t>(expert) * weight.cols + 8 * (lane % 4);
#pragma unroll
    for (int i = 0; i < kUnitsAtOnce; ++i) {
      const int column = kUnit * (first_unit + i * kWarps);
      gate[tile][i] = {};
      if (valid && column < weight.cols) gate[tile][i] = __ldg(reinterpret_cast<const uint4*>(row + column));
    }
  }
}

// logits += the products of the held units with the tile's tokens; rows of x from `x`.
__device__ __forceinline__ void multiply(const Bf16* x, int cols, int num_tokens, int first_unit,
                                         const uint4 (&gate)[kTilesAtOnce][kUnitsAtOnce], float (&logits)[kTilesAtOnce][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int g = lane / 4;
  const Bf16* row = x + static_cast<int64_t>(g) * cols + 8 * (lane % 4);
#pragma unroll
  for (int group = 0; group < kUnitsAtOnce; group += kUnitGroup) {
    uint4 top[kUnitGroup], bottom[kUnitGroup];
#pragma unroll
    for (int i = 0; i < kUnitGroup; ++i) {
      const int column = kUnit * (first_unit + (group + i) * kWarps);
      top[i] = {};
      bottom[i] = {};
      if (column < cols && g < num_tokens) top[i] = *reinterpret_cast<const uint4*>(row + column);
      if (column < cols && g + 8 < num_tokens) bottom[i] = *reinterpret_cast<const uint4*>(row + int64_t{8} * cols + column);
    }
#pragma unroll
    for (int i = 0; i < kUnitGroup; ++i) {
      const uint32_t a[2][4] = {{top[i].x, bottom[i].x, top[i].y, bottom[i].y}, {top[i].z, bottom[i].z, top[i].w, bottom[i].w}};
#pragma unroll
      for (int tile = 0; tile < kTilesAtOnce; ++tile) {
        const uint4 b = gate[tile][group + i];
        ptx::mma_m16n8k16_bf16(logits[tile], a[0], b.x, b.y);
        ptx::mma_m16n8k16_bf16(logits[tile], a[1], b.z, b.w);
      }
    }
  }
}

__device__ __forceinline__ void store_partials(RouterShared& shared, int num_tokens, int first_tile, int cta_experts,
                                               const float (&logits)[kTilesAtOnce][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int token = lane / 4 + 8 * half;
    if (token >= num_tokens) continue;
#pragma unroll
    for (int tile = 0; tile < kTilesAtOnce; ++tile) {
      if (8 * (first_tile + tile) >= cta_experts) continue;
      float* partials = shared.partials[threadIdx.x / 32][token] + 8 * (first_tile + tile) + 2 * (lane % 4);
      *reinterpret_cast<float2*>(partials) = make_float2(logits[tile][2 * half], logits[tile][2 * half + 1]);
    }
  }
}

__device__ __forceinline__ float sqrt_softplus(float z) {
  return sqrtf(z > 20.0f ? z : log1pf(expf(z)));
}

// σ of the CTA's experts to the owner of each token.
__device__ __forceinline__ void send_scores(const Routing& routing, RouterShared& shared, int rank, int num_tokens, int parity) {
  for (int i = static_cast<int>(threadIdx.x); i < num_tokens * routing.cta_experts; i += kThreads) {
    const int token = i / routing.cta_experts;
    const int cta_expert = i % routing.cta_experts;
    const int expert = rank * routing.cta_experts + cta_expert;
    if (expert >= routing.op.gate.rows) continue;
    float z = 0.0f;
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) z += shared.partials[warp][token][cta_expert];
    ptx::store_cluster(ptx::map_shared(&shared.scores[parity][token][expert], token % routing.num_ranks), sqrt_softplus(z));
  }
}

// A number whose order as an unsigned integer is that of the values; never 0, which stands for no candidate.
__device__ __forceinline__ uint32_t ordered_bits(float value) {
  const uint32_t bits = __float_as_uint(value == 0.0f ? 0.0f : value);  // −0 equals 0
  return max((bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u, 1u);
}

// The expert of slot `lane`, for lane < num_selected, by score + bias; equal values in favour of the lower id.
__device__ __forceinline__ int select_largest(const float* scores, const float* bias, int num_experts, int num_selected) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  uint32_t candidates[kLaneExperts];  // of experts lane + 32·i
#pragma unroll
  for (int i = 0; i < kLaneExperts; ++i) {
    const int expert = lane + 32 * i;
    candidates[i] = expert < num_experts ? ordered_bits(__fadd_rn(scores[expert], bias[expert])) : 0;
  }
  int selected = 0;
  for (int slot = 0; slot < num_selected; ++slot) {
    uint32_t best = 0;
    int best_expert = kMaxExperts;
#pragma unroll
    for (int i = 0; i < kLaneExperts; ++i) {
      if (candidates[i] > best) {
        best = candidates[i];
        best_expert = lane + 32 * i;
      }
    }
    const uint32_t largest = __reduce_max_sync(0xffffffffu, best);
    const int expert = static_cast<int>(__reduce_min_sync(0xffffffffu, static_cast<unsigned>(best == largest ? best_expert : kMaxExperts)));
    if (lane == slot) selected = expert;
#pragma unroll
    for (int i = 0; i < kLaneExperts; ++i) {
      if (expert == lane + 32 * i) candidates[i] = 0;
    }
  }
  return selected;
}

// The choice and the weights of one token, by one warp of its owner.
__device__ __forceinline__ void select(const RouterParams& op, int64_t token, const float* scores) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const bool is_slot = lane < op.num_selected;
  const bool is_padding = op.positions != nullptr && op.positions[token] < 0;
  int expert = -1;
  float weight = 0.0f;
  if (!is_padding) {
    if (op.tid2eid != nullptr) {
      if (is_slot) {
        const int64_t id = op.tid2eid[static_cast<int64_t>(op.token_ids[token]) * op.num_selected + lane];
        expert = static_cast<int>(min(max(id, int64_t{0}), static_cast<int64_t>(op.gate.rows - 1)));
      }
    } else {
      expert = select_largest(scores, op.bias, op.gate.rows, op.num_selected);
    }
    const float score = is_slot ? scores[expert] : 0.0f;
    float sum = 0.0f;
    for (int slot = 0; slot < op.num_selected; ++slot) sum = __fadd_rn(sum, __shfl_sync(0xffffffffu, score, slot));
    weight = __fmul_rn(__fdiv_rn(score, sum), op.routed_scaling_factor);
  }
  if (!is_slot) return;
  op.experts[token * op.num_selected + lane] = expert;
  op.weights[token * op.num_selected + lane] = weight;
}

__global__ void __launch_bounds__(kThreads, 1) router_kernel(const __grid_constant__ Routing routing) {
  extern __shared__ __align__(16) unsigned char memory[];
  RouterShared& shared = *reinterpret_cast<RouterShared*>(memory);
  const RouterParams& op = routing.op;
  const int rank = static_cast<int>(ptx::cluster_rank());
  const int warp = static_cast<int>(threadIdx.x) / 32;
  constexpr int kUnitStep = kUnitsAtOnce * kWarps;
  const int num_units = op.gate.cols / kUnit;
  const bool stays = num_units <= kUnitStep && routing.cta_experts <= 8 * kTilesAtOnce;

  // The gate is a weight: what stays does not wait for the kernels before this one.
  uint4 gate[kTilesAtOnce][kUnitsAtOnce];
  if (stays) load_gate(routing, rank, 0, warp, gate);
  ptx::cluster_sync();  // every CTA runs before others store into its shared memory
  ptx::grid_dependency_wait();
  ptx::grid_launch_dependents();

  const int first_tile = static_cast<int>(blockIdx.x) / routing.num_ranks * routing.tiles_per_cluster;
  for (int tile_idx = first_tile; tile_idx < first_tile + routing.tiles_per_cluster; ++tile_idx) {
    const int tile_begin = tile_idx * routing.tile_tokens;
    const int num_tokens = min(routing.tile_tokens, op.num_tokens - tile_begin);
    if (num_tokens <= 0) break;
    const int parity = tile_idx & 1;
    const Bf16* x = op.x + static_cast<int64_t>(tile_begin) * op.gate.cols;
    for (int tile = 0; 8 * tile < routing.cta_experts; tile += kTilesAtOnce) {
      float logits[kTilesAtOnce][4] = {};
      for (int unit = warp; unit - warp < num_units; unit += kUnitStep) {
        if (!stays) load_gate(routing, rank, tile, unit, gate);
        multiply(x, op.gate.cols, num_tokens, unit, gate, logits);
      }
      store_partials(shared, num_tokens, tile, routing.cta_experts, logits);
    }
    __syncthreads();
    send_scores(routing, shared, rank, num_tokens, parity);
    __syncwarp();
    ptx::cluster_sync();
    const int owned_token = rank + routing.num_ranks * warp;
    if (owned_token < num_tokens) select(op, tile_begin + owned_token, shared.scores[parity][owned_token]);
    __syncwarp();
  }
}

}  // namespace

void router(Context& context, const RouterParams& params) {
  const int num_experts = params.gate.rows;
  if (params.num_tokens <= 0) return;
  if (num_experts < 1 || num_experts > kMaxExperts) fail_line("router: %d experts, expected 1 to %d", num_experts, kMaxExperts);
  if (params.num_selected < 1 || params.num_selected > num_experts || params.num_selected > kMaxSelected) {
    fail_line("router: %d experts selected of %d, expected 1 to %d", params.num_selected, num_experts,
              num_experts < kMaxSelected ? num_experts : kMaxSelected);
  }
  if (params.gate.cols < kUnit || params.gate.cols % kUnit != 0) {
    fail_line("router: hidden_size %d, expected a multiple of %d", params.gate.cols, kUnit);
  }
  if ((params.bias != nullptr) == (params.tid2eid != nullptr)) {
    fail_line("router: expected either a bias or a table of experts by token id");
  }
  Routing routing;
  routing.op = params;
  routing.num_ranks = kMaxRanks;
  while (routing.num_ranks > 1 && num_experts < 8 * routing.num_ranks) routing.num_ranks /= 2;
  routing.cta_experts = ceil_div(ceil_div(num_experts, 8), routing.num_ranks) * 8;
  const TokenTiles tiles = token_tiles(params.num_tokens, kMaxTokens, routing.num_ranks, context.num_sms);
  routing.tile_tokens = tiles.tile_tokens;
  routing.tiles_per_cluster = tiles.tiles_per_cluster;
  LaunchConfig config;
  config.grid = dim3(static_cast<unsigned>(tiles.num_clusters * routing.num_ranks));
  config.block = dim3(kThreads);
  config.shared_bytes = sizeof(RouterShared);
  config.cluster_size = routing.num_ranks;
  launch(context, "router", router_kernel, config, routing);
}

}  // namespace dsv4::cuda
