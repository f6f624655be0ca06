// Who computes what in a launch of attention: chosen by what fills the GPU, with no effect on the results.
#pragma once

#include "backend/cuda/runtime/check.h"
#include "ops/attention.h"

namespace dsv4::cuda {

inline constexpr int kHeadTile = 64;  // heads of a CTA
inline constexpr int kTileKeys = 64;
// Rows of more tiles of keys are added up in kLongGroups groups.
inline constexpr int kShortTiles = 64;
inline constexpr int kLongGroups = 8;

constexpr int num_key_groups(int num_tiles) {
  return num_tiles > kShortTiles ? kLongGroups : 1;
}

struct AttentionPlan {
  int columns = 1;           // sets of columns of the output; each has CTAs of its own
  int split = 1;             // CTAs of a cluster, which share a row's keys
  bool shares_short = true;  // those of short rows, too
  int max_parts = 0;         // of a row in scratch memory
  int num_clusters = 0;      // in the launch
};

namespace attention_plan {

constexpr int kMaxSplit = 16;
constexpr int kGpcs = 8, kGpcSms = 16;  // clusters lie within a GPC; some have two SMs more
constexpr int kPartThreads = 256;

// Of a CTA's sums in scratch memory. Threads of a warpgroup without columns have a place as well.
inline int64_t part_bytes(int head_dim, int columns) {
  return static_cast<int64_t>(kHeadTile) * head_dim * 4 * (head_dim <= 128 ? 2 : 1) / columns + kPartThreads * 2 * 8;
}

// Cycles of one H200 that the slowest CTA takes for rows of `num_tiles` tiles (docs/kernels/attention.md); sets the plan's parts and
// clusters. Negative: the plan does not do.
inline double cost(const AttentionParams& params, int num_sms, int num_tiles, AttentionPlan& plan) {
  const int num_units = params.batch.num_tokens * ((params.num_heads + kHeadTile - 1) / kHeadTile) * plan.columns;
  const int num_groups = num_key_groups(num_tiles);
  const int64_t bytes = part_bytes(params.head_dim, plan.columns);
  const double share = params.head_dim / 512.0 / plan.columns;
  const double tile_cycles = 1500 + 3800 * share, start_cycles = 6000, store_cycles = 500 + 6000 * share;
  if (plan.split == 1) {
    plan.num_clusters = num_units < num_sms ? num_units : num_sms;
    plan.max_parts = num_groups > 1 ? num_groups : 0;
    if (plan.max_parts > 0) {
      const int64_t most = params.scratch_bytes / (plan.max_parts * bytes);
      if (most < plan.num_clusters) plan.num_clusters = static_cast<int>(most);
    }
    if (plan.num_clusters == 0) return -1;
    const int rounds = (num_units + plan.num_clusters - 1) / plan.num_clusters;
    return rounds * (start_cycles + num_tiles * tile_cycles + (num_groups - 1) * 3 * store_cycles + 7000 * share);
  }
  plan.num_clusters = num_units;
  if (num_units > kGpcs * (kGpcSms / plan.split)) return -1;
  // Parts of the longest rows, and of the longest of those that are handed over tile by tile.
  const int short_tiles = num_tiles < kShortTiles ? num_tiles : kShortTiles, first = (short_tiles + plan.split - 1) / plan.split;
  const int short_parts = short_tiles - first + 1, num_parts = num_groups > 1 ? num_groups : short_parts;
  plan.max_parts = num_parts > short_parts ? num_parts : short_parts;
  if (num_groups > 1 && num_units * plan.max_parts * bytes > params.scratch_bytes) {
    plan.shares_short = false;
    plan.max_parts = num_parts;
  }
  if (num_units * plan.max_parts * bytes > params.scratch_bytes) return -1;
  const int run_parts = num_groups > 1 ? (num_groups + plan.split - 1) / plan.split : first > 1 ? first - 1 : 1;
  const double run_tiles = num_groups > 1 ? static_cast<double>(num_tiles) * run_parts / num_groups : first;
  const int num_shares = params.head_dim / 32 / plan.columns, run_shares = (num_shares + plan.split - 1) / plan.split;
  return start_cycles + (run_tiles + 0.5) * tile_cycles + run_parts * store_cycles + 2500 + run_shares * num_parts * 550.0;
}

}  // namespace attention_plan

// The cheapest plan for the longest rows that the launch may have.
inline AttentionPlan make_attention_plan(const AttentionParams& params, int num_sms) {
  int64_t num_keys = params.window;
  if (params.entries.data != nullptr) {
    const int64_t bound = static_cast<int64_t>(params.batch.page_table_stride) * params.entries.entries_per_page;
    num_keys += params.selected != nullptr ? params.num_selected : params.max_visible > 0 ? params.max_visible : bound;
  }
  const int num_tiles = static_cast<int>((num_keys + kTileKeys - 1) / kTileKeys);
  const int num_blocks = params.head_dim / 64;
  AttentionPlan best;
  double lowest = -1;
  for (int columns = 1; columns <= (num_blocks < 4 ? 1 : num_blocks / 2); columns *= 2) {
    if (params.output == AttentionOutput::kFp8 && columns > 1) break;  // 128 columns of a warpgroup share a scale
    for (int split = 1; split <= attention_plan::kMaxSplit; ++split) {
      AttentionPlan plan;
      plan.columns = columns;
      plan.split = split;
      const double cost = attention_plan::cost(params, num_sms, num_tiles, plan);
      if (cost < 0 || (lowest >= 0 && cost >= lowest)) continue;
      lowest = cost;
      best = plan;
    }
  }
  if (lowest < 0) {
    fail_line("attention: %lld bytes of scratch, expected at least %lld for %lld keys", static_cast<long long>(params.scratch_bytes),
              static_cast<long long>(kLongGroups * attention_plan::part_bytes(params.head_dim, num_blocks < 4 ? 1 : num_blocks / 2)),
              static_cast<long long>(num_keys));
  }
  return best;
}

}  // namespace dsv4::cuda
