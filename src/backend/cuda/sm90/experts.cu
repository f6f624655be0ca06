// Routed and shared experts on Hopper (spec 2.11, steps 4 and 5), in three launches for any number of tokens:
//
//   plan   one CTA: the (token, expert) pairs by expert, and the list of tiles (expert, up to kTokens of its pairs)
//   up     cluster of 2 CTAs per tile and 128 rows of h: CTA r has rows 64r … 64r + 63 of w1 (consumer 0) and of w3 (consumer 1);
//          SwiGLU, then the block's maximum is exchanged and h is quantised
//   down   CTA per tile and 128 rows of w2
//
// Main loop: block/gemm.h; FP4 weights become bf16 fragments in registers. Grids are sized for the most tiles there can be (the plan is
// made on the device); CTAs without a tile leave at once. Bytes: every weight of every expert that has a token, once.
// docs/kernels/experts.md.
#include "backend/cuda/block/linear.h"
#include "backend/cuda/block/reduce.h"
#include "backend/cuda/ops.h"
#include "backend/cuda/tune/linear.h"

namespace dsv4::cuda {
namespace {

constexpr int kPlanThreads = 1024;

// The plan, in the scratch memory.
struct ExpertPlan {
  int32_t* num_tiles;    // [1]
  int32_t* tile_expert;  // [max_tiles]
  int32_t* tile_first;   // [max_tiles], index into pairs
  int32_t* tile_count;   // [max_tiles]
  int32_t* pairs;        // [num_pairs], token·num_selected + i, by expert
};

struct ExpertArguments {
  const ExpertMatrix* w1;
  const ExpertMatrix* w2;
  const ExpertMatrix* w3;
  Fp8Weight shared_w1, shared_w2, shared_w3;
  Fp8Activation x;
  const float* weights;
  ExpertPlan plan;
  Bf16* h;  // quantised [num_pairs + num_tokens, intermediate_size]: routed by position in pairs, then the shared expert's by token
  Bf16* routed_out;
  Bf16* shared_out;
  int num_tokens;
  int num_selected;
  int num_pairs;
  int num_shared_tiles;
  int hidden_size;
  int intermediate_size;
  float swiglu_limit;
  bool routed_fp8;
};

// A tile of the launch: up to kTokens pairs of one expert, or tokens of the shared one.
struct ExpertTile {
  bool shared_expert;
  int expert;
  int first;
  int count;  // 0: none
};

__device__ __forceinline__ ExpertTile expert_tile(const ExpertArguments& arguments, int tile_idx, int tile_tokens) {
  if (tile_idx < arguments.num_shared_tiles) {
    const int first = tile_idx * tile_tokens;
    return {true, 0, first, min(tile_tokens, arguments.num_tokens - first)};
  }
  const int routed = tile_idx - arguments.num_shared_tiles;
  if (routed >= *arguments.plan.num_tiles) return {false, 0, 0, 0};
  return {false, arguments.plan.tile_expert[routed], arguments.plan.tile_first[routed], arguments.plan.tile_count[routed]};
}

// Tiles of 64 rows of a matrix, from row tile `row_tile` on.
__device__ __forceinline__ const uint8_t* expert_tiles(const uint8_t* codes, int row_tile, int num_blocks, int tile_bytes) {
  return codes + static_cast<size_t>(row_tile) * num_blocks * tile_bytes;
}

template <int kTokens>
__device__ __forceinline__ void expert_product(GemmShared<kTokens>& shared, bool fp8, int num_blocks, float (&total)[kTokens / 2]) {
  if (fp8) {
    gemm_consume<Product::kFp8, kTokens>(shared, num_blocks, total);
  } else {
    gemm_consume<Product::kFp4, kTokens>(shared, num_blocks, total);
  }
}

__global__ __launch_bounds__(kPlanThreads, 1) void expert_plan_kernel(const int32_t* experts, int num_pairs, int num_experts,
                                                                      int tile_tokens, ExpertPlan plan) {
  __shared__ int32_t counts[kPlanThreads], pair_ends[kPlanThreads], tile_ends[kPlanThreads];
  const int thread = static_cast<int>(threadIdx.x);
  ptx::grid_dependency_wait();
  ptx::grid_launch_dependents();
  counts[thread] = 0;
  __syncthreads();
  for (int pair = thread; pair < num_pairs; pair += kPlanThreads) {
    const int expert = experts[pair];
    if (expert >= 0 && expert < num_experts) atomicAdd(&counts[expert], 1);
  }
  __syncthreads();
  const int count = counts[thread];
  const int num_tiles = (count + tile_tokens - 1) / tile_tokens;
  pair_ends[thread] = count;
  tile_ends[thread] = num_tiles;
  __syncthreads();
  for (int offset = 1; offset < kPlanThreads; offset *= 2) {  // inclusive prefix sums
    const int pairs = thread >= offset ? pair_ends[thread - offset] : 0;
    const int tiles = thread >= offset ? tile_ends[thread - offset] : 0;
    __syncthreads();
    pair_ends[thread] += pairs;
    tile_ends[thread] += tiles;
    __syncthreads();
  }
  const int first_pair = pair_ends[thread] - count;
  for (int i = 0; i < num_tiles; ++i) {
    const int tile = tile_ends[thread] - num_tiles + i;
    plan.tile_expert[tile] = thread;
    plan.tile_first[tile] = first_pair + i * tile_tokens;
    plan.tile_count[tile] = min(tile_tokens, count - i * tile_tokens);
  }
  if (thread == kPlanThreads - 1) *plan.num_tiles = tile_ends[thread];
  counts[thread] = first_pair;  // from here on: the expert's next place
  __syncthreads();
  // The order of an expert's pairs is free: columns of a tile do not influence each other.
  for (int pair = thread; pair < num_pairs; pair += kPlanThreads) {
    const int expert = experts[pair];
    if (expert >= 0 && expert < num_experts) plan.pairs[atomicAdd(&counts[expert], 1)] = pair;
  }
}

__device__ __forceinline__ float swiglu(float gate_sum, float up_sum, float limit, float weight) {
  const float gate = fminf(round_to_bf16(gate_sum), limit);
  const float up = fminf(fmaxf(round_to_bf16(up_sum), -limit), limit);
  return round_to_bf16(weight * (gate / (1.0f + expf(-gate)) * up));
}

// SwiGLU of this CTA's 64 rows of h, quantised in blocks of 128 with those of the other CTA of the cluster. All threads of the CTA call it.
template <int kTokens>
__device__ __forceinline__ void finish_up(GemmShared<kTokens>& shared, const ExpertArguments& arguments, int tile_idx, int h_block) {
  const ExpertTile tile = expert_tile(arguments, tile_idx, kTokens);  // read again: registers are short in the main loop
  const uint32_t rank = ptx::cluster_rank();
  const bool consumer = threadIdx.x < kGemmConsumers;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int column = warp; consumer && column < tile.count; column += kGemmConsumers / 32) {
    float* sums = shared.partial() + column * kPartialPitch;
    const float weight = tile.shared_expert ? 1.0f : arguments.weights[arguments.plan.pairs[tile.first + column]];
    const float2 gate = reinterpret_cast<const float2*>(sums)[lane];
    const float2 up = reinterpret_cast<const float2*>(sums + 64)[lane];
    const float2 h = {swiglu(gate.x, up.x, arguments.swiglu_limit, weight), swiglu(gate.y, up.y, arguments.swiglu_limit, weight)};
    reinterpret_cast<float2*>(sums)[lane] = h;
    const float amax = warp_max(fmaxf(fabsf(h.x), fabsf(h.y)));
    if (lane == 0) shared.amax[column] = amax;
  }
  ptx::cluster_sync();
  for (int column = warp; consumer && column < tile.count; column += kGemmConsumers / 32) {
    const float other = ptx::load_cluster(ptx::map_shared(&shared.amax[column], rank ^ 1));
    const uint32_t code = fp8_scale_code(fmaxf(shared.amax[column], other));
    const float inverse = inverse_scale(code);
    const float2 h = reinterpret_cast<const float2*>(shared.partial() + column * kPartialPitch)[lane];
    const size_t row = static_cast<size_t>(tile.shared_expert ? arguments.num_pairs : 0) + tile.first + column;
    const uint2 values = e4m3x4_values(ptx::convert_e4m3x2(h.y * inverse, h.x * inverse), bf16_scale_pair(code));
    Bf16* out = arguments.h + row * arguments.intermediate_size + h_block * 128 + rank * 64;
    reinterpret_cast<uint32_t*>(out)[lane] = values.x;  // two codes: the upper half is zeros
  }
  ptx::cluster_sync();  // the other CTA may still read amax
}

template <int kTokens>
__global__ __launch_bounds__(kGemmThreads,
                             gemm_ctas_per_sm(kTokens)) void expert_up_kernel(const __grid_constant__ ExpertArguments arguments) {
  extern __shared__ uint8_t memory[];
  auto& shared = gemm_shared<kTokens>(memory);
  const int rank = static_cast<int>(ptx::cluster_rank());
  const int num_h_blocks = arguments.intermediate_size / 128;
  const int item = static_cast<int>(blockIdx.x) / 2;
  const int h_block = item % num_h_blocks;
  gemm_init(shared);
  ptx::grid_dependency_wait();
  ptx::grid_launch_dependents();
  const ExpertTile tile = expert_tile(arguments, item / num_h_blocks, kTokens);
  if (tile.count == 0) return;  // both CTAs of the cluster

  const bool fp8 = tile.shared_expert || arguments.routed_fp8;
  const int tile_bytes = fp8 ? kTileBytes : kFp4TileBytes;
  const int num_blocks = arguments.hidden_size / 128;
  const ExpertMatrix w1 =
      tile.shared_expert ? ExpertMatrix{arguments.shared_w1.codes, arguments.shared_w1.scales} : arguments.w1[tile.expert];
  const ExpertMatrix w3 =
      tile.shared_expert ? ExpertMatrix{arguments.shared_w3.codes, arguments.shared_w3.scales} : arguments.w3[tile.expert];
  GemmOperands operands;
  operands.tiles[0] = expert_tiles(w1.codes, 2 * h_block + rank, num_blocks, tile_bytes);
  operands.tiles[1] = expert_tiles(w3.codes, 2 * h_block + rank, num_blocks, tile_bytes);
  operands.weight_scales[0] = fp8 ? w1.scales + static_cast<size_t>(h_block) * num_blocks : nullptr;
  operands.weight_scales[1] = fp8 ? w3.scales + static_cast<size_t>(h_block) * num_blocks : nullptr;
  operands.x = reinterpret_cast<const uint8_t*>(arguments.x.values);
  operands.x_row_bytes = static_cast<uint32_t>(arguments.hidden_size) * sizeof(Bf16);
  operands.num_blocks = num_blocks;
  const int num_selected = arguments.num_selected;
  const int32_t* pairs = arguments.plan.pairs;
  const auto row_of = [=](int column) {
    if (column >= tile.count) return -1;
    return tile.shared_expert ? tile.first + column : pairs[tile.first + column] / num_selected;
  };
  if (threadIdx.x >= kGemmConsumers) {
    if constexpr (gemm_ctas_per_sm(kTokens) == 1) ptx::decrease_registers<kProducerRegisters>();
    gemm_produce<2>(shared, operands, tile_bytes, row_of, false);
  } else {
    if constexpr (gemm_ctas_per_sm(kTokens) == 1) ptx::increase_registers<kConsumerRegisters>();
    gemm_load_scales(shared, operands);
    float total[kTokens / 2];
    expert_product<kTokens>(shared, fp8, num_blocks, total);
    gemm_store_partial<kTokens>(shared, total);
  }
  finish_up<kTokens>(shared, arguments, item / num_h_blocks, h_block);
}

template <int kTokens>
__global__ __launch_bounds__(kGemmThreads,
                             gemm_ctas_per_sm(kTokens)) void expert_down_kernel(const __grid_constant__ ExpertArguments arguments) {
  extern __shared__ uint8_t memory[];
  auto& shared = gemm_shared<kTokens>(memory);
  const int num_row_tiles = arguments.hidden_size / kGemmRows;
  const int row_tile = static_cast<int>(blockIdx.x) % num_row_tiles;
  gemm_init(shared);
  ptx::grid_dependency_wait();
  ptx::grid_launch_dependents();
  const ExpertTile tile = expert_tile(arguments, static_cast<int>(blockIdx.x) / num_row_tiles, kTokens);
  if (tile.count == 0) return;

  const bool fp8 = tile.shared_expert || arguments.routed_fp8;
  const int tile_bytes = fp8 ? kTileBytes : kFp4TileBytes;
  const int num_blocks = arguments.intermediate_size / 128;
  const ExpertMatrix w2 =
      tile.shared_expert ? ExpertMatrix{arguments.shared_w2.codes, arguments.shared_w2.scales} : arguments.w2[tile.expert];
  GemmOperands operands;
  operands.tiles[0] = expert_tiles(w2.codes, 2 * row_tile, num_blocks, tile_bytes);
  operands.tiles[1] = expert_tiles(w2.codes, 2 * row_tile + 1, num_blocks, tile_bytes);
  operands.weight_scales[0] = operands.weight_scales[1] = fp8 ? w2.scales + static_cast<size_t>(row_tile) * num_blocks : nullptr;
  operands.x = reinterpret_cast<const uint8_t*>(arguments.h);
  operands.x_row_bytes = static_cast<uint32_t>(arguments.intermediate_size) * sizeof(Bf16);
  operands.num_blocks = num_blocks;
  const int first_row = (tile.shared_expert ? arguments.num_pairs : 0) + tile.first;
  const auto row_of = [=](int column) { return column < tile.count ? first_row + column : -1; };
  if (threadIdx.x >= kGemmConsumers) {
    if constexpr (gemm_ctas_per_sm(kTokens) == 1) ptx::decrease_registers<kProducerRegisters>();
    gemm_produce<2>(shared, operands, tile_bytes, row_of, false);
    return;
  }
  if constexpr (gemm_ctas_per_sm(kTokens) == 1) ptx::increase_registers<kConsumerRegisters>();
  gemm_load_scales(shared, operands);
  float total[kTokens / 2];
  expert_product<kTokens>(shared, fp8, num_blocks, total);
  gemm_store_partial<kTokens>(shared, total);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int column = static_cast<int>(threadIdx.x) / 32; column < tile.count; column += kGemmConsumers / 32) {
    const float4 sum = cluster_partial_sum(shared, column, 1);
    const size_t row =
        tile.shared_expert ? static_cast<size_t>(tile.first + column) : static_cast<size_t>(arguments.plan.pairs[tile.first + column]);
    Bf16* out = (tile.shared_expert ? arguments.shared_out : arguments.routed_out) + row * arguments.hidden_size + row_tile * kGemmRows;
    reinterpret_cast<uint2*>(out)[lane] = {ptx::convert_bf16x2(sum.y, sum.x), ptx::convert_bf16x2(sum.w, sum.z)};
  }
}

// Places the plan and h in the scratch memory.
void place_scratch(ExpertArguments& arguments, void* scratch) {
  uint8_t* next = static_cast<uint8_t*>(scratch);
  const auto take = [&next](size_t bytes) {
    uint8_t* piece = next;
    next += (bytes + 255) / 256 * 256;
    return piece;
  };
  const size_t pairs = static_cast<size_t>(arguments.num_pairs);
  const size_t rows = pairs + static_cast<size_t>(arguments.num_tokens);
  arguments.plan.num_tiles = reinterpret_cast<int32_t*>(take(sizeof(int32_t)));
  arguments.plan.tile_expert = reinterpret_cast<int32_t*>(take(pairs * sizeof(int32_t)));
  arguments.plan.tile_first = reinterpret_cast<int32_t*>(take(pairs * sizeof(int32_t)));
  arguments.plan.tile_count = reinterpret_cast<int32_t*>(take(pairs * sizeof(int32_t)));
  arguments.plan.pairs = reinterpret_cast<int32_t*>(take(pairs * sizeof(int32_t)));
  arguments.h = reinterpret_cast<Bf16*>(take(rows * static_cast<size_t>(arguments.intermediate_size) * sizeof(Bf16)));
}

template <int kTokens>
void launch_products(Context& context, const char* op, ExpertArguments& arguments, bool shared_expert, int num_experts) {
  arguments.num_shared_tiles = shared_expert ? (arguments.num_tokens + kTokens - 1) / kTokens : 0;
  const int experts_hit = arguments.num_pairs < num_experts ? arguments.num_pairs : num_experts;
  const int routed_bound = arguments.num_pairs / kTokens + experts_hit;
  const int routed_tiles = routed_bound < arguments.num_pairs ? routed_bound : arguments.num_pairs;
  const int num_tiles = arguments.num_shared_tiles + routed_tiles;
  const auto grid = [num_tiles](int tiles_per_item) {
    return dim3(static_cast<unsigned>(num_tiles) * static_cast<unsigned>(tiles_per_item));
  };
  constexpr size_t kSharedBytes = gemm_shared_bytes<kTokens>();
  launch(context, op, expert_up_kernel<kTokens>, {grid(2 * (arguments.intermediate_size / 128)), dim3(kGemmThreads), kSharedBytes, 2},
         arguments);
  launch(context, op, expert_down_kernel<kTokens>, {grid(arguments.hidden_size / kGemmRows), dim3(kGemmThreads), kSharedBytes}, arguments);
}

// routed, shared: nullptr where the launch has none.
void run_experts(Context& context, const char* op, const ExpertsParams* routed, const SharedExpertParams* shared) {
  ExpertArguments arguments{};
  int num_experts = 0;
  if (shared != nullptr) {
    arguments.shared_w1 = shared->w1;
    arguments.shared_w2 = shared->w2;
    arguments.shared_w3 = shared->w3;
    arguments.x = shared->x;
    arguments.shared_out = shared->out;
    arguments.num_tokens = shared->num_tokens;
    arguments.hidden_size = shared->w1.cols;
    arguments.intermediate_size = shared->w1.rows;
    arguments.swiglu_limit = shared->swiglu_limit;
  }
  if (routed != nullptr) {
    arguments.w1 = routed->w1;
    arguments.w2 = routed->w2;
    arguments.w3 = routed->w3;
    arguments.x = routed->x;
    arguments.weights = routed->weights;
    arguments.routed_out = routed->out;
    arguments.num_tokens = routed->num_tokens;
    arguments.num_selected = routed->num_selected;
    arguments.num_pairs = routed->num_tokens * routed->num_selected;
    arguments.hidden_size = routed->hidden_size;
    arguments.intermediate_size = routed->intermediate_size;
    arguments.swiglu_limit = routed->swiglu_limit;
    arguments.routed_fp8 = routed->format == ExpertFormat::kFp8;
    num_experts = routed->num_experts;
  }
  if (arguments.num_tokens == 0) return;
  if (arguments.hidden_size % 128 != 0 || arguments.intermediate_size % 128 != 0) {
    fail_line("%s: hidden size %d, intermediate size %d, expected multiples of 128", op, arguments.hidden_size,
              arguments.intermediate_size);
  }
  if (arguments.hidden_size > 128 * kGemmMaxBlocks || arguments.intermediate_size > 128 * kGemmMaxBlocks) {
    fail_line("%s: hidden size %d, intermediate size %d, expected at most %d", op, arguments.hidden_size, arguments.intermediate_size,
              128 * kGemmMaxBlocks);
  }
  if (num_experts > kPlanThreads) fail_line("%s: %d experts, expected at most %d", op, num_experts, kPlanThreads);
  void* scratch = routed != nullptr ? routed->scratch : shared->scratch;
  if (scratch == nullptr) fail_line("%s: no scratch memory", op);
  if (arguments.x.values == nullptr) fail_line("%s: activations without values", op);
  place_scratch(arguments, scratch);

  const int num_columns = routed != nullptr ? arguments.num_pairs : arguments.num_tokens;
  const int tile_tokens = tune_expert_tokens(num_columns, routed != nullptr ? num_experts : 1);
  if (routed != nullptr) {
    launch(context, op, expert_plan_kernel, {dim3(1), dim3(kPlanThreads)}, routed->experts, arguments.num_pairs, num_experts, tile_tokens,
           arguments.plan);
  }
  const bool has_shared = shared != nullptr;
  switch (tile_tokens) {
    case 8:
      return launch_products<8>(context, op, arguments, has_shared, num_experts);
    case 32:
      return launch_products<32>(context, op, arguments, has_shared, num_experts);
    case 64:
      return launch_products<64>(context, op, arguments, has_shared, num_experts);
    default:
      return launch_products<128>(context, op, arguments, has_shared, num_experts);
  }
}

}  // namespace

void moe(Context& context, const MoeParams& params) {
  run_experts(context, "experts", &params.routed, &params.shared);
}

void experts(Context& context, const ExpertsParams& params) {
  run_experts(context, "experts", &params, nullptr);
}

void shared_expert(Context& context, const SharedExpertParams& params) {
  run_experts(context, "shared_expert", nullptr, &params);
}

}  // namespace dsv4::cuda
