// Sampling (ops/sample.h): one cluster of 8 CTAs per row. Every CTA keeps an eighth of the row's logits in shared memory; they are read
// from memory once. Results meet in shared memory of the cluster, where every CTA adds the same eight parts in the same order, so that all
// of them take the same decisions without a leader.
//
//   1  bias and penalties (each CTA those of its own tokens; the logits in memory are changed too, only where they change)
//   2  maximum, lowest id of equals; NaN, +inf, a row of −inf and ids outside the vocabulary show here
//   3  log Σ exp(logit − maximum), in double: a greedy row without alternatives ends here
//   4  the alternatives: a cut by count (below), then each one's rank by comparison with the others
//   5  top-k: a cut by count; top-p: a cut by mass; min-p
//   6  the race p/x, with the most likely token as the one to beat
//
// A cut keeps the most likely tokens (larger logit, then lower id) until their number or mass reaches what is wanted. It is found by a
// search over the bits of the logits: each round asks for the number or mass above three pivots and keeps a quarter of the range (16 rounds
// at most), then, if several tokens have the logit of the cut, over their ids. Masses are integers, multiples of 2^-40 of the largest
// probability: their sums are exact in any order, so a cut is the same in every configuration, and differs from the CPU's (sums in double)
// only where the mass meets the limit to about 1e-8.
//
// Budget of 129,280 logits: 517 KB, 65 KB per CTA; a greedy row has three cluster barriers, every round of a search adds one.
#include "backend/cuda/ops.h"
#include "backend/cuda/ptx/cluster.h"
#include "backend/cuda/ptx/grid.h"
#include "base/philox.h"

namespace dsv4::cuda {
namespace {

constexpr int kClusterSize = 8;
constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kMaxParts = 3;           // values reduced together
constexpr int kMaxAlternatives = 256;  // per row
constexpr int kMaxSharedBytes = 227 * 1024;
constexpr uint32_t kAllLanes = 0xffffffffu;
constexpr uint32_t kMinusInfinity = 0x007fffffu;  // ordered(−inf)
constexpr uint32_t kBadLogit = 0xffffffffu;       // above every ordered number
constexpr uint32_t kLastId = 0xffffffffu;

struct alignas(16) SampleShared {
  uint64_t warp_parts[kMaxParts][kWarps];
  uint64_t exchange[2][kMaxParts];  // of this CTA: the cluster reads them. Two in turn: one may still be read when the next is written
  uint64_t alternatives[kMaxAlternatives];  // ordered logit above inverted id, in any order: the cluster reads them
  uint32_t num_alternatives;
};

// An integer of the same order as the float; −0 is +0.
__device__ __forceinline__ uint32_t ordered(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0f);
  return bits ^ ((bits & 0x80000000u) != 0 ? 0xffffffffu : 0x80000000u);
}

__device__ __forceinline__ float from_ordered(uint32_t key) {
  return __uint_as_float(key ^ ((key & 0x80000000u) != 0 ? 0x80000000u : 0xffffffffu));
}

// Larger logit first, then lower id.
__device__ __forceinline__ uint64_t rank_key(uint32_t ordered_logit, uint32_t token_id) {
  return uint64_t{ordered_logit} << 32 | (0xffffffffu - token_id);
}

struct Sum {
  __device__ __forceinline__ uint64_t operator()(uint64_t a, uint64_t b) const { return a + b; }
};
struct Max {
  __device__ __forceinline__ uint64_t operator()(uint64_t a, uint64_t b) const { return a > b ? a : b; }
};
struct SumDouble {
  __device__ __forceinline__ uint64_t operator()(uint64_t a, uint64_t b) const {
    return static_cast<uint64_t>(
        __double_as_longlong(__dadd_rn(__longlong_as_double(static_cast<long long>(a)), __longlong_as_double(static_cast<long long>(b)))));
  }
};

template <int kLanes, class Combine>
__device__ __forceinline__ uint64_t combine_lanes(uint64_t value, Combine combine) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) value = combine(value, __shfl_xor_sync(kAllLanes, value, offset));
  return value;
}

// The calling CTA's logits and the means to agree with the rest of the cluster.
struct Team {
  SampleShared& shared;
  float* logits;  // of the tokens first_id … first_id + count − 1
  int first_id;
  int count;
  uint32_t turn;  // which exchange is next

  // Combines values of all threads of the cluster in a fixed tree; every thread gets the results. `combine` is commutative.
  template <int kParts, class Combine>
  __device__ __forceinline__ void reduce(uint64_t (&values)[kParts], Combine combine) {
    static_assert(kParts <= kMaxParts);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      values[i] = combine_lanes<32>(values[i], combine);
      if (lane == 0) shared.warp_parts[i][warp] = values[i];
    }
    __syncthreads();
    if (warp == 0) {
#pragma unroll
      for (int i = 0; i < kParts; ++i) {
        const uint64_t value = combine_lanes<kWarps>(shared.warp_parts[i][lane % kWarps], combine);
        if (lane == 0) shared.exchange[turn][i] = value;
      }
    }
    ptx::cluster_sync();
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      const uint64_t part = ptx::load_cluster_u64(ptx::map_shared(&shared.exchange[turn][i], static_cast<uint32_t>(lane % kClusterSize)));
      values[i] = combine_lanes<kClusterSize>(part, combine);
    }
    turn ^= 1;
  }

  template <class Combine>
  __device__ __forceinline__ uint64_t reduce(uint64_t value, Combine combine) {
    uint64_t values[1] = {value};
    reduce(values, combine);
    return values[0];
  }

  // The largest c with Σ weight(i) over key(i) ≥ c of at least `wanted`, where lo satisfies that and hi does not, and nothing has a key ≥
  // hi. `above`: the sum over key(i) > c.
  template <class Key, class Weight>
  __device__ __forceinline__ uint32_t search(uint32_t lo, uint32_t hi, uint64_t wanted, uint64_t& above, Key key, Weight weight) {
    above = 0;
    while (hi - lo > 1) {
      const uint32_t range = hi - lo;
      const uint32_t pivots[3] = {lo + range / 4, lo + range / 2, lo + static_cast<uint32_t>(uint64_t{range} * 3 / 4)};
      uint64_t sums[3] = {};
      for (int i = threadIdx.x; i < count; i += kThreads) {
        const uint32_t own = key(i);
        if (own < pivots[0] || own >= hi) continue;
        const uint64_t part = weight(i);
        sums[0] += part;
        if (own >= pivots[1]) sums[1] += part;
        if (own >= pivots[2]) sums[2] += part;
      }
      reduce(sums, Sum{});
      const uint64_t above_range = above;
      if (above_range + sums[2] >= wanted) {
        lo = pivots[2];
      } else if (above_range + sums[1] >= wanted) {
        lo = pivots[1];
        hi = pivots[2];
        above = above_range + sums[2];
      } else if (above_range + sums[0] >= wanted) {
        lo = pivots[0];
        hi = pivots[1];
        above = above_range + sums[1];
      } else {
        hi = pivots[0];
        above = above_range + sums[0];
      }
    }
    return lo;
  }
};

// Keeps tokens with a logit above that of the cut, and those equal to it up to an id.
struct Cut {
  uint32_t ordered_logit = 0;
  uint32_t last_id = kLastId;

  __device__ __forceinline__ bool keeps(uint32_t ordered_of_token, uint32_t token_id) const {
    return ordered_of_token > ordered_logit || (ordered_of_token == ordered_logit && token_id <= last_id);
  }
};

// The cut of the smallest set of most likely tokens of `within` whose weights sum to `wanted` (≥ 1 and at most the sum of all). Tokens of
// equal logit have equal weights.
template <class Weight>
__device__ __forceinline__ Cut find_cut(Team& team, const Cut& within, uint32_t largest, uint64_t wanted, Weight weight) {
  const auto key = [&](int i) {
    const uint32_t own = ordered(team.logits[i]);
    return within.keeps(own, static_cast<uint32_t>(team.first_id + i)) ? own : 0;
  };
  Cut cut;
  uint64_t above;
  cut.ordered_logit = team.search(kMinusInfinity, largest + 1, wanted, above, key, weight);
  uint64_t ties[2] = {};  // number and sum of weights
  for (int i = threadIdx.x; i < team.count; i += kThreads) {
    if (key(i) == cut.ordered_logit) {
      ties[0] += 1;
      ties[1] += weight(i);
    }
  }
  team.reduce(ties, Sum{});
  const uint64_t each = ties[1] / ties[0];
  const uint64_t needed = (wanted - above + each - 1) / each;
  if (needed < ties[0]) {
    // Ids count down from the limit, so that the lowest id has the largest key.
    constexpr uint32_t kIdLimit = 1u << 30;
    const auto id_key = [&](int i) { return key(i) == cut.ordered_logit ? kIdLimit - static_cast<uint32_t>(team.first_id + i) : 0; };
    const uint32_t vocab_size_limit = static_cast<uint32_t>(kClusterSize) * (kMaxSharedBytes / sizeof(float));
    uint64_t before;
    cut.last_id = kIdLimit - team.search(kIdLimit - vocab_size_limit, kIdLimit + 1, needed, before, id_key, [](int) { return 1ull; });
  }
  return cut;
}

__device__ __forceinline__ float infinity() {
  return __uint_as_float(0x7f800000u);
}

__device__ __forceinline__ bool has_penalties(const SampleRow& row) {
  return row.num_history > 0 && (row.repetition_penalty != 1.0f || row.presence_penalty != 0.0f || row.frequency_penalty != 0.0f);
}

// Bias, then penalties, of the CTA's own tokens. Returns whether every id is one of the vocabulary. Ends with a barrier.
__device__ __forceinline__ bool adjust_logits(const Team& team, const SampleRow& row, float* logits, int vocab_size) {
  bool valid = true;
  const auto adjust = [&](int32_t token_id, auto change) {
    const bool known = token_id >= 0 && token_id < vocab_size;
    valid = valid && known;
    const int i = known ? token_id - team.first_id : -1;
    if (i < 0 || i >= team.count) return;
    team.logits[i] = change(team.logits[i]);
    logits[token_id] = team.logits[i];
  };
  for (int i = threadIdx.x; i < row.num_bias; i += kThreads) {
    const LogitBias entry = row.bias[i];
    adjust(entry.token_id, [&](float logit) { return __fadd_rn(logit, entry.bias); });
  }
  __syncthreads();
  if (!has_penalties(row)) return valid;
  for (int i = threadIdx.x; i < row.num_history; i += kThreads) {
    const TokenCount seen = row.history[i];
    adjust(seen.token_id, [&](float logit) {
      if (seen.prompt_count + seen.completion_count > 0) {
        logit = logit > 0.0f ? __fdiv_rn(logit, row.repetition_penalty) : __fmul_rn(logit, row.repetition_penalty);
      }
      if (seen.completion_count > 0) {
        const float frequency = __fmul_rn(row.frequency_penalty, static_cast<float>(seen.completion_count));
        logit = __fsub_rn(logit, __fadd_rn(row.presence_penalty, frequency));
      }
      return logit;
    });
  }
  __syncthreads();
  return valid;
}

// Reads the CTA's part of the row. Ends with a barrier.
__device__ __forceinline__ void load_logits(const Team& team, const float* logits) {
  const float* source = logits + team.first_id;
  int done = 0;
  if (reinterpret_cast<uintptr_t>(source) % sizeof(float4) == 0) {
    constexpr int kBatch = 4;  // loads in flight per thread
    const int num_pieces = team.count / 4;
    const float4* from = reinterpret_cast<const float4*>(source);
    float4* to = reinterpret_cast<float4*>(team.logits);
    for (int first = threadIdx.x; first < num_pieces; first += kBatch * kThreads) {
      float4 pieces[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (first + i * kThreads < num_pieces) pieces[i] = from[first + i * kThreads];
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (first + i * kThreads < num_pieces) to[first + i * kThreads] = pieces[i];
      }
    }
    done = num_pieces * 4;
  }
  for (int i = done + static_cast<int>(threadIdx.x); i < team.count; i += kThreads) team.logits[i] = source[i];
  __syncthreads();
}

// rank_key of the most likely token; with kBadLogit above the id where a logit is no finite number or −inf, or `valid` is false anywhere.
__device__ __forceinline__ uint64_t find_most_likely(Team& team, bool valid) {
  uint64_t best = valid ? 0 : rank_key(kBadLogit, 0);
  for (int i = threadIdx.x; i < team.count; i += kThreads) {
    const float logit = team.logits[i];
    const bool bad = !(logit < infinity());  // NaN or +inf
    const uint64_t own = rank_key(bad ? kBadLogit : ordered(logit), static_cast<uint32_t>(team.first_id + i));
    best = own > best ? own : best;
  }
  return team.reduce(best, Max{});
}

// logit − maximum − log Σ e^(logit − maximum).
struct LogSoftmax {
  double maximum;
  double log_sum;

  __device__ __forceinline__ float operator()(float logit) const {
    return static_cast<float>(static_cast<double>(logit) - maximum - log_sum);
  }
};

__device__ __forceinline__ LogSoftmax log_softmax(Team& team, float maximum) {
  double sum = 0.0;
  for (int i = threadIdx.x; i < team.count; i += kThreads) sum += static_cast<double>(expf(__fsub_rn(team.logits[i], maximum)));
  const uint64_t total = team.reduce(static_cast<uint64_t>(__double_as_longlong(sum)), SumDouble{});
  return {static_cast<double>(maximum), log(__longlong_as_double(static_cast<long long>(total)))};
}

// The `wanted` most likely tokens, best first; the rest of the row's places is filled.
__device__ __forceinline__ void write_alternatives(Team& team, const SampleParams& params, int row_idx, int wanted, uint32_t largest,
                                                   const LogSoftmax& log_softmax, uint32_t rank) {
  const int64_t first = static_cast<int64_t>(row_idx) * params.max_logprobs;
  if (rank == 0) {
    for (int i = wanted + static_cast<int>(threadIdx.x); i < params.max_logprobs; i += kThreads) {
      params.top_ids[first + i] = -1;
      params.top_logprobs[first + i] = -infinity();
    }
  }
  if (wanted <= 0) return;
  const Cut cut = find_cut(team, Cut{}, largest, static_cast<uint64_t>(wanted), [](int) { return 1ull; });
  SampleShared& shared = team.shared;
  for (int i = threadIdx.x; i < team.count; i += kThreads) {
    const uint32_t own = ordered(team.logits[i]), token_id = static_cast<uint32_t>(team.first_id + i);
    if (cut.keeps(own, token_id)) shared.alternatives[atomicAdd(&shared.num_alternatives, 1u)] = rank_key(own, token_id);
  }
  ptx::cluster_sync();
  for (uint32_t i = threadIdx.x; i < shared.num_alternatives; i += kThreads) {
    const uint64_t own = shared.alternatives[i];
    int place = 0;
    for (uint32_t other = 0; other < kClusterSize; ++other) {
      const uint32_t num_others = ptx::load_cluster_u32(ptx::map_shared(&shared.num_alternatives, other));
      const uint32_t others = ptx::map_shared(shared.alternatives, other);
      for (uint32_t j = 0; j < num_others; ++j) place += ptx::load_cluster_u64(others + j * 8) > own ? 1 : 0;
    }
    params.top_ids[first + place] = static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(own));
    params.top_logprobs[first + place] = log_softmax(from_ordered(static_cast<uint32_t>(own >> 32)));
  }
}

// p/x of a token.
__device__ __forceinline__ double race(float probability, double u) {
  return static_cast<double>(probability) / fmax(-log(u), 0x1p-60);
}

// argmax p/x after temperature, top-k, top-p and min-p.
__device__ __forceinline__ uint32_t draw(Team& team, const SampleRow& row, int vocab_size, uint32_t largest, uint32_t most_likely) {
  const float maximum = from_ordered(largest);
  const float temperature = fmaxf(row.temperature, 1e-5f);
  const auto probability = [&](int i) { return expf(__fdiv_rn(__fsub_rn(team.logits[i], maximum), temperature)); };
  Cut top_k, top_p;
  if (row.top_k > 0 && row.top_k < vocab_size) {
    top_k = find_cut(team, Cut{}, largest, static_cast<uint64_t>(row.top_k), [](int) { return 1ull; });
  }
  if (row.top_p < 1.0f) {
    const auto mass = [&](int i) { return static_cast<uint64_t>(__float2ull_rn(probability(i) * 0x1p40f)); };
    uint64_t total = 0;
    for (int i = threadIdx.x; i < team.count; i += kThreads) {
      if (top_k.keeps(ordered(team.logits[i]), static_cast<uint32_t>(team.first_id + i))) total += mass(i);
    }
    total = team.reduce(total, Sum{});
    const uint64_t wanted = static_cast<uint64_t>(ceil(static_cast<double>(total) * static_cast<double>(row.top_p)));
    top_p = find_cut(team, top_k, largest, wanted > 1 ? wanted : 1, mass);
  }

  // The most likely token passes every cut and has probability 1: what cannot beat it needs no logarithm.
  double best = race(1.0f, sample_uniform(static_cast<int32_t>(most_likely), row.draw_idx, row.seed));
  uint32_t best_id = most_likely;
  for (int i = threadIdx.x; i < team.count; i += kThreads) {
    const uint32_t own = ordered(team.logits[i]), token_id = static_cast<uint32_t>(team.first_id + i);
    if (own == kMinusInfinity || !top_k.keeps(own, token_id) || !top_p.keeps(own, token_id)) continue;
    const float p = probability(i);
    if (p < row.min_p) continue;
    const double u = sample_uniform(static_cast<int32_t>(token_id), row.draw_idx, row.seed);
    if (static_cast<double>(p) < best * (1.0 - u)) continue;  // −log(u) ≥ 1 − u
    const double ratio = race(p, u);
    if (ratio > best || (ratio == best && token_id < best_id)) {
      best = ratio;
      best_id = token_id;
    }
  }
  // Bits of numbers that are not negative have their order.
  const uint64_t own = static_cast<uint64_t>(__double_as_longlong(best));
  const uint64_t winner = team.reduce(own, Max{});
  return 0xffffffffu - static_cast<uint32_t>(team.reduce(own == winner ? uint64_t{0xffffffffu - best_id} : 0, Max{}));
}

__global__ void __launch_bounds__(kThreads, 2) sample_kernel(SampleParams params, int cta_tokens) {
  extern __shared__ uint4 shared_memory[];
  SampleShared& shared = *reinterpret_cast<SampleShared*>(shared_memory);
  ptx::grid_dependency_wait();
  ptx::grid_launch_dependents();
  const uint32_t rank = ptx::cluster_rank();
  const int row_idx = static_cast<int>(blockIdx.x) / kClusterSize;
  const SampleRow& row = params.rows[row_idx];
  float* logits = params.logits + static_cast<int64_t>(row_idx) * params.vocab_size;
  const int first_id = static_cast<int>(rank) * cta_tokens;
  Team team{shared, reinterpret_cast<float*>(shared_memory + sizeof(SampleShared) / sizeof(uint4)), first_id,
            max(min(params.vocab_size - first_id, cta_tokens), 0), 0};
  if (threadIdx.x == 0) shared.num_alternatives = 0;  // the barriers below come before its use

  load_logits(team, logits);
  bool valid = true;
  if (row.num_bias > 0 || has_penalties(row)) valid = adjust_logits(team, row, logits, params.vocab_size);
  const uint64_t most_likely = find_most_likely(team, valid);
  const uint32_t largest = static_cast<uint32_t>(most_likely >> 32);
  const bool bad = largest == kBadLogit || largest <= kMinusInfinity;

  uint32_t token_id = 0xffffffffu - static_cast<uint32_t>(most_likely);
  float logprob = __uint_as_float(0x7fc00000u);
  if (bad) {
    token_id = 0xffffffffu;
    if (params.max_logprobs > 0) write_alternatives(team, params, row_idx, 0, largest, LogSoftmax{0.0, 0.0}, rank);
  } else {
    const LogSoftmax log_probability = log_softmax(team, from_ordered(largest));
    if (params.max_logprobs > 0) {
      const int wanted = min(min(row.num_logprobs, params.max_logprobs), params.vocab_size);
      write_alternatives(team, params, row_idx, max(wanted, 0), largest, log_probability, rank);
    }
    if (row.temperature > 0.0f) token_id = draw(team, row, params.vocab_size, largest, token_id);
    // From the L2: another CTA of the cluster may have changed it, before barriers that all have passed.
    if (rank == 0 && threadIdx.x == 0) logprob = log_probability(__ldcg(logits + token_id));
  }
  if (rank == 0 && threadIdx.x == 0) {
    params.token_ids[row_idx] = static_cast<int32_t>(token_id);
    params.logprobs[row_idx] = logprob;
  }
  ptx::cluster_sync();  // the others may still read this CTA's shared memory
}

}  // namespace

void sample(Context& context, const SampleParams& params) {
  if (params.vocab_size < 1) fail_line("sample: vocab_size is %d, expected 1 or more", params.vocab_size);
  if (params.max_logprobs > kMaxAlternatives) {
    fail_line("sample: %d alternatives, expected at most %d", params.max_logprobs, kMaxAlternatives);
  }
  if (params.num_rows <= 0) return;
  const int cta_tokens = ((params.vocab_size - 1) / kClusterSize + 4) / 4 * 4;  // 16-byte pieces
  const size_t shared_bytes = sizeof(SampleShared) + static_cast<size_t>(cta_tokens) * sizeof(float);
  if (shared_bytes > kMaxSharedBytes) {
    fail_line("sample: vocab_size is %d, expected at most %d", params.vocab_size,
              static_cast<int>((kMaxSharedBytes - sizeof(SampleShared)) / sizeof(uint4) * 4) * kClusterSize);
  }
  const LaunchConfig config{dim3(static_cast<unsigned>(params.num_rows * kClusterSize)), dim3(kThreads), shared_bytes, kClusterSize};
  launch(context, "sample", sample_kernel, config, params, cta_tokens);
}

}  // namespace dsv4::cuda
