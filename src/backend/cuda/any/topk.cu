// Selection (spec 2.7): the min(topk, visible) entries with the largest scores, equal scores in favour of the later entry, in ascending
// entry order, padded with −1.
//
// A row belongs to one CTA, or to a cluster of 2, 4 or 8 where rows may be longer than 32,768 scores. Every warp owns a contiguous run of
// the row:
//
//   row      |------ CTA 0 ------|------ CTA 1 ------| …     16-byte chunks of 8 scores
//   CTA      | warp 0 | warp 1 | …                           a warp takes 32 chunks at a time
//
//   1  read the scores once, keep them in shared memory as 16-bit keys of the same order, count the upper bytes
//   2  count the lower bytes of the keys whose upper byte is that of the topk-th largest: now its key is known exactly
//   3  count the keys above it and equal to it per warp; sums over the warps and CTAs before give every warp its place in the output
//   4  write the entries, in order
//
// Scores of a row share few upper bytes, so counters are replicated per lane: no two lanes of a warp ever meet at an address. All counts
// are integers: the result does not depend on the cluster size.
//
// Budget: 2 bytes per score from memory; about 40 instructions per score: 0.3 cycles of an SM.
#include "backend/cuda/ops.h"
#include "backend/cuda/ptx/cluster.h"
#include "backend/cuda/ptx/grid.h"
#include "ops/batch.h"

namespace dsv4::cuda {
namespace {

constexpr int kWarps = 16;
constexpr int kThreads = 32 * kWarps;
constexpr int kChunk = 8;  // scores of 16 bytes
constexpr int kBins = 256;
constexpr int kMaxClusterSize = 8;
constexpr int kCtaScores = 32768;  // scores per CTA up to which a smaller cluster is taken
constexpr int kMaxSharedBytes = 227 * 1024;
constexpr uint32_t kAllLanes = 0xffffffffu;

struct alignas(16) TopkShared {
  uint32_t lane_counts[kBins][32];
  uint32_t bins[2][kBins];  // of this CTA, one array per pass: the cluster reads them
  uint32_t totals[kBins];   // of the cluster
  uint32_t warp_counts[kWarps][2];
  uint32_t cta_counts[2];  // keys above the threshold, keys equal to it: the cluster reads them
  uint32_t picked_bin;
  uint32_t num_above;  // keys in higher bins
};

// The part of a row that a CTA works on. Chunks are 16-byte aligned in memory; the row may begin within its first chunk: entry = 8·chunk +
// element − skew.
struct RowPart {
  const Bf16* aligned;  // the row's first chunk
  int skew;
  int num_visible;
  int first_chunk;  // of this CTA
  int warp_begin;   // chunks of the calling warp, relative to first_chunk
  int warp_end;
};

// Which elements of a chunk (of the whole row) are visible entries, as bits.
__device__ __forceinline__ uint32_t visible_elements(const RowPart& part, int chunk) {
  const int first_entry = chunk * kChunk - part.skew;
  const int begin = max(-first_entry, 0), end = min(part.num_visible - first_entry, kChunk);
  return ((1u << end) - 1) & ~((1u << begin) - 1);
}

// A 16-bit integer of the same order as the bf16; −0 is +0.
__device__ __forceinline__ uint32_t sortable_key(uint32_t bits) {
  if (bits == 0x8000u) return 0x8000u;
  return bits ^ ((bits & 0x8000u) != 0 ? 0xffffu : 0x8000u);
}

__device__ __forceinline__ uint32_t key_of(const uint4& keys, int element) {
  const uint32_t pair = element < 2 ? keys.x : element < 4 ? keys.y : element < 6 ? keys.z : keys.w;
  return element % 2 == 0 ? pair & 0xffffu : pair >> 16;
}

// The raw scores of a chunk, 16 bytes at once where the row fills it.
__device__ __forceinline__ uint4 load_chunk(const RowPart& part, int chunk) {
  const Bf16* scores = part.aligned + static_cast<int64_t>(chunk) * kChunk;
  const uint32_t visible = visible_elements(part, chunk);
  if (visible == 0xffu) return *reinterpret_cast<const uint4*>(scores);
  uint32_t pairs[4] = {};
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {
    if ((visible >> i & 1) != 0) pairs[i / 2] |= static_cast<uint32_t>(scores[i].bits) << (16 * (i % 2));
  }
  return {pairs[0], pairs[1], pairs[2], pairs[3]};
}

__device__ __forceinline__ uint4 sortable_keys(const uint4& scores) {
  const auto convert = [](uint32_t pair) { return sortable_key(pair & 0xffffu) | sortable_key(pair >> 16) << 16; };
  return {convert(scores.x), convert(scores.y), convert(scores.z), convert(scores.w)};
}

__device__ __forceinline__ void clear_counts(TopkShared& shared) {
  uint4* counts = reinterpret_cast<uint4*>(shared.lane_counts);
  for (int i = threadIdx.x; i < kBins * 32 / 4; i += kThreads) counts[i] = uint4{0, 0, 0, 0};
}

// Pass 1: keys into shared memory, upper bytes counted.
__device__ __forceinline__ void load_and_count(const RowPart& part, uint4* keys, TopkShared& shared) {
  constexpr int kBatch = 4;  // loads in flight per thread
  const int lane = threadIdx.x % 32;
  for (int begin = part.warp_begin + lane; begin < part.warp_end; begin += 32 * kBatch) {
    uint4 scores[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (begin + 32 * i < part.warp_end) scores[i] = load_chunk(part, part.first_chunk + begin + 32 * i);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int chunk = begin + 32 * i;
      if (chunk >= part.warp_end) break;
      const uint4 chunk_keys = sortable_keys(scores[i]);
      keys[chunk] = chunk_keys;
      const uint32_t visible = visible_elements(part, part.first_chunk + chunk);
#pragma unroll
      for (int e = 0; e < kChunk; ++e) {
        if ((visible >> e & 1) != 0) atomicAdd(&shared.lane_counts[key_of(chunk_keys, e) >> 8][lane], 1u);
      }
    }
  }
}

// Pass 2: the lower bytes of the keys whose upper byte is `upper`.
__device__ __forceinline__ void count_lower(const RowPart& part, const uint4* keys, uint32_t upper, TopkShared& shared) {
  const int lane = threadIdx.x % 32;
  for (int chunk = part.warp_begin + lane; chunk < part.warp_end; chunk += 32) {
    const uint4 chunk_keys = keys[chunk];
    const uint32_t visible = visible_elements(part, part.first_chunk + chunk);
#pragma unroll
    for (int e = 0; e < kChunk; ++e) {
      const uint32_t key = key_of(chunk_keys, e);
      if (key >> 8 == upper && (visible >> e & 1) != 0) atomicAdd(&shared.lane_counts[key & 0xff][lane], 1u);
    }
  }
}

__device__ __forceinline__ void team_sync(uint32_t cluster_size) {
  if (cluster_size == 1) {
    __syncthreads();
  } else {
    ptx::cluster_sync();
  }
}

// Adds the counters of the cluster and finds the bin that holds the `wanted`-th largest (picked_bin, num_above). Called by all threads
// after their counting; ends with a barrier.
__device__ __forceinline__ void pick_bin(TopkShared& shared, int pass, uint32_t wanted, uint32_t cluster_size) {
  const int thread = threadIdx.x;
  __syncthreads();
  if (thread < kBins) {
    uint32_t count = 0;
#pragma unroll 8
    for (int i = 0; i < 32; ++i) count += shared.lane_counts[thread][(thread + i) % 32];  // another bank in every lane
    shared.bins[pass][thread] = count;
  }
  team_sync(cluster_size);
  if (thread < kBins) {
    uint32_t total = shared.bins[pass][thread];
    if (cluster_size > 1) {
      total = 0;
      for (uint32_t rank = 0; rank < cluster_size; ++rank)
        total += ptx::load_cluster_u32(ptx::map_shared(&shared.bins[pass][thread], rank));
    }
    shared.totals[thread] = total;
  }
  __syncthreads();
  if (thread < 32) {
    constexpr int kLaneBins = kBins / 32;
    uint32_t own = 0;
    for (int i = 0; i < kLaneBins; ++i) own += shared.totals[thread * kLaneBins + i];
    uint32_t from_here = own;  // in the bins of this lane and of all above it
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const uint32_t other = __shfl_down_sync(kAllLanes, from_here, offset);
      if (thread + offset < 32) from_here += other;
    }
    uint32_t above = from_here - own;
    if (above < wanted && wanted <= from_here) {
      int bin = thread * kLaneBins + kLaneBins - 1;
      while (above + shared.totals[bin] < wanted) above += shared.totals[bin--];
      shared.picked_bin = static_cast<uint32_t>(bin);
      shared.num_above = above;
    }
  }
  __syncthreads();
}

// Elements of a chunk above the threshold, and equal to it, as bits.
struct Hits {
  uint32_t above;
  uint32_t equal;
};

__device__ __forceinline__ Hits find_hits(const RowPart& part, const uint4* keys, int chunk, uint32_t threshold) {
  Hits hits{0, 0};
  if (chunk >= part.warp_end) return hits;
  const uint4 chunk_keys = keys[chunk];
#pragma unroll
  for (int e = 0; e < kChunk; ++e) {
    const uint32_t key = key_of(chunk_keys, e);
    hits.above |= static_cast<uint32_t>(key > threshold) << e;
    hits.equal |= static_cast<uint32_t>(key == threshold) << e;
  }
  const uint32_t visible = visible_elements(part, part.first_chunk + chunk);
  return {hits.above & visible, hits.equal & visible};
}

// Step 3: hits in the row before those of the calling warp.
__device__ __forceinline__ Hits count_before(const RowPart& part, const uint4* keys, uint32_t threshold, uint32_t cluster_size,
                                             TopkShared& shared) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  uint32_t above = 0, equal = 0;
  for (int chunk = part.warp_begin + lane; chunk < part.warp_end; chunk += 32) {
    const Hits hits = find_hits(part, keys, chunk, threshold);
    above += __popc(hits.above);
    equal += __popc(hits.equal);
  }
  above = __reduce_add_sync(kAllLanes, above);
  equal = __reduce_add_sync(kAllLanes, equal);
  if (lane == 0) {
    shared.warp_counts[warp][0] = above;
    shared.warp_counts[warp][1] = equal;
  }
  __syncthreads();
  if (threadIdx.x < 2) {
    uint32_t sum = 0;
    for (int i = 0; i < kWarps; ++i) sum += shared.warp_counts[i][threadIdx.x];
    shared.cta_counts[threadIdx.x] = sum;
  }
  Hits before{0, 0};
  for (int i = 0; i < warp; ++i) {
    before.above += shared.warp_counts[i][0];
    before.equal += shared.warp_counts[i][1];
  }
  if (cluster_size > 1) {
    ptx::cluster_sync();
    const uint32_t own_rank = ptx::cluster_rank();
    for (uint32_t rank = 0; rank < own_rank; ++rank) {
      before.above += ptx::load_cluster_u32(ptx::map_shared(&shared.cta_counts[0], rank));
      before.equal += ptx::load_cluster_u32(ptx::map_shared(&shared.cta_counts[1], rank));
    }
  }
  return before;
}

// Step 4: entries above the threshold and those equal to it but for the first `ties_to_skip`.
__device__ __forceinline__ void write_selected(const RowPart& part, const uint4* keys, uint32_t threshold, uint32_t ties_to_skip,
                                               Hits before, int32_t* selected) {
  const int lane = threadIdx.x % 32;
  for (int begin = part.warp_begin; begin < part.warp_end; begin += 32) {
    const int chunk = begin + lane;
    const Hits hits = find_hits(part, keys, chunk, threshold);
    const uint32_t own = __popc(hits.above) | __popc(hits.equal) << 16;
    if (__ballot_sync(kAllLanes, own != 0) == 0) continue;
    uint32_t until_here = own;  // both counts, each at most 256
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const uint32_t other = __shfl_up_sync(kAllLanes, until_here, offset);
      if (lane >= offset) until_here += other;
    }
    uint32_t num_above = before.above + ((until_here - own) & 0xffffu);
    uint32_t num_equal = before.equal + ((until_here - own) >> 16);
    const int first_entry = (part.first_chunk + chunk) * kChunk - part.skew;
    for (uint32_t rest = hits.above | hits.equal; rest != 0; rest &= rest - 1) {
      const int element = __ffs(static_cast<int>(rest)) - 1;
      const bool is_above = (hits.above >> element & 1) != 0;
      if (is_above || num_equal >= ties_to_skip) {
        selected[num_above + (num_equal > ties_to_skip ? num_equal - ties_to_skip : 0)] = first_entry + element;
      }
      num_above += is_above ? 1 : 0;
      num_equal += is_above ? 0 : 1;
    }
    const uint32_t total = __shfl_sync(kAllLanes, until_here, 31);
    before.above += total & 0xffffu;
    before.equal += total >> 16;
  }
}

__global__ void __launch_bounds__(kThreads, 3) topk_kernel(TopkParams params) {
  extern __shared__ uint4 shared_memory[];
  TopkShared& shared = *reinterpret_cast<TopkShared*>(shared_memory);
  uint4* keys = shared_memory + sizeof(TopkShared) / sizeof(uint4);
  ptx::grid_dependency_wait();
  ptx::grid_launch_dependents();
  const uint32_t cluster_size = ptx::cluster_size();
  const int rank = static_cast<int>(ptx::cluster_rank());
  const int row_idx = static_cast<int>(blockIdx.x / cluster_size);
  const int row = params.row_begin + row_idx;
  const int topk = params.topk;
  const int num_visible = max(num_visible_entries(params.positions[row], params.ratio), 0);
  int32_t* selected = params.selected + static_cast<int64_t>(row) * topk;
  if (num_visible <= topk) {
    if (rank != 0) return;
    for (int i = threadIdx.x; i < topk; i += kThreads) selected[i] = i < num_visible ? i : -1;
    return;
  }

  const Bf16* scores = params.scores + row_idx * params.score_stride;
  RowPart part;
  part.skew = static_cast<int>(reinterpret_cast<uintptr_t>(scores) % sizeof(uint4) / sizeof(Bf16));
  part.aligned = scores - part.skew;
  part.num_visible = num_visible;
  const int num_chunks = (part.skew + num_visible + kChunk - 1) / kChunk;
  const int cta_chunks = (num_chunks + static_cast<int>(cluster_size) - 1) / static_cast<int>(cluster_size);
  part.first_chunk = rank * cta_chunks;
  const int count = max(min(num_chunks - part.first_chunk, cta_chunks), 0);
  const int warp_chunks = ((count + kWarps - 1) / kWarps + 31) / 32 * 32;
  part.warp_begin = static_cast<int>(threadIdx.x) / 32 * warp_chunks;
  part.warp_end = min(part.warp_begin + warp_chunks, count);

  clear_counts(shared);
  __syncthreads();
  load_and_count(part, keys, shared);
  pick_bin(shared, 0, static_cast<uint32_t>(topk), cluster_size);
  const uint32_t upper = shared.picked_bin;
  const uint32_t above_upper = shared.num_above;
  clear_counts(shared);
  __syncthreads();
  count_lower(part, keys, upper, shared);
  pick_bin(shared, 1, static_cast<uint32_t>(topk) - above_upper, cluster_size);
  const uint32_t threshold = upper << 8 | shared.picked_bin;
  const uint32_t num_equal = shared.totals[shared.picked_bin];
  const uint32_t ties_to_skip = num_equal - (static_cast<uint32_t>(topk) - above_upper - shared.num_above);
  const Hits before = count_before(part, keys, threshold, cluster_size, shared);
  write_selected(part, keys, threshold, ties_to_skip, before, selected);
  if (cluster_size > 1) ptx::cluster_sync();  // the others may still read this CTA's shared memory
}

}  // namespace

void topk(Context& context, const TopkParams& params) {
  const int num_rows = params.row_end - params.row_begin;
  if (num_rows <= 0) return;
  if (params.topk < 1) fail_line("topk: topk is %d, expected 1 or more", params.topk);
  int cluster_size = 1;
  while (cluster_size < kMaxClusterSize && params.score_stride > static_cast<int64_t>(cluster_size) * kCtaScores) cluster_size *= 2;
  // A row of score_stride scores touches at most one chunk more than it fills.
  const int64_t max_chunks = (params.score_stride + kChunk - 1) / kChunk + 1;
  const int64_t cta_chunks = (max_chunks + cluster_size - 1) / cluster_size;
  const int64_t shared_bytes = static_cast<int64_t>(sizeof(TopkShared)) + cta_chunks * static_cast<int64_t>(sizeof(uint4));
  if (shared_bytes > kMaxSharedBytes) {
    fail_line("topk: rows of %lld scores, expected at most %d", static_cast<long long>(params.score_stride),
              static_cast<int>((kMaxSharedBytes - sizeof(TopkShared)) / sizeof(uint4) - 1) * kChunk * kMaxClusterSize);
  }
  const LaunchConfig config{dim3(static_cast<unsigned>(num_rows * cluster_size)), dim3(kThreads), static_cast<size_t>(shared_bytes),
                            cluster_size};
  launch(context, "topk", topk_kernel, config, params);
}

}  // namespace dsv4::cuda
