// Who computes what in a launch of attention: chosen by what fills the GPU, with no effect on the results.
#pragma once

#include <algorithm>

#include "backend/cuda/runtime/launch.h"
#include "ops/attention.h"

namespace dsv4::cuda {

inline constexpr int kHeadTile = 64;  // heads of a CTA
inline constexpr int kTileKeys = 64;
inline constexpr int kTiles = 2;  // of a piece; a tile's products are summed up from zero
inline constexpr int kPieceKeys = kTiles * kTileKeys;
inline constexpr int kGroupPieces = 9;  // at most, of a group, whose tiles are added up from zero

// a / b of small positive numbers, a below 2^16: the device has no integer division.
constexpr int small_quotient(int a, int b) {
#ifdef __CUDA_ARCH__
  return static_cast<int>(__fdividef(static_cast<float>(a) + 0.5f, static_cast<float>(b)));  // off by less than 2^-18 of it
#else
  return a / b;
#endif
}

// A row's groups have as many pieces as each other, or one more.
constexpr int num_piece_groups(int num_pieces) {
  return (num_pieces + kGroupPieces - 1) / kGroupPieces;
}

// Parts that a row of `num_pieces` pieces hands over from CTA to CTA, when `split` CTAs share it: groups, or, where more CTAs than groups
// are there and several share a group, the first CTA's share of it and the single tiles of the others.
struct PartCounts {
  int16_t num_groups = 0;
  int16_t num_longer = 0;                                     // of the groups: the first ones, with one piece more
  int16_t group_pieces = 0;                                   // of the others
  int16_t num_larger = 0;                                     // of the groups: the first ones, with one CTA more
  int16_t group_ctas = 0;                                     // that share one of the others; 0: CTAs have whole groups
  int16_t first_parts = 1, middle_parts = 1, last_parts = 1;  // of a group that is longer and larger, that is one of both, of the others

  constexpr int pieces(int group) const { return group_pieces + (group < num_longer ? 1 : 0); }
  constexpr int ctas(int group) const { return group_ctas + (group < num_larger ? 1 : 0); }
  constexpr int parts(int group) const {
    const bool is_longer = group < num_longer, is_larger = group < num_larger;
    return is_longer && is_larger ? first_parts : is_longer || is_larger ? middle_parts : last_parts;
  }
  // At most.
  constexpr int group_parts() const {
    const int16_t more = first_parts > middle_parts ? first_parts : middle_parts;
    return more > last_parts ? more : last_parts;
  }
};

// Parts of a group of `num_pieces` that `num_ctas` share.
constexpr int16_t count_group_parts(int num_pieces, int num_ctas) {
  return static_cast<int16_t>(1 + (num_pieces - small_quotient(num_pieces + num_ctas - 1, num_ctas)) * kTiles);
}

constexpr PartCounts count_parts(int num_pieces, int split) {
  PartCounts counts;
  if (num_pieces == 0) return counts;
  const int num_groups = num_piece_groups(num_pieces);
  const int pieces = small_quotient(num_pieces, num_groups), ctas = small_quotient(split, num_groups);
  counts.num_groups = static_cast<int16_t>(num_groups);
  counts.group_pieces = static_cast<int16_t>(pieces);
  counts.num_longer = static_cast<int16_t>(num_pieces - pieces * num_groups);
  if (split <= num_groups) return counts;
  counts.group_ctas = static_cast<int16_t>(ctas);
  counts.num_larger = static_cast<int16_t>(split - ctas * num_groups);
  // Of kinds that there are: a place for one more part would be read for nothing.
  if (counts.num_longer > 0 && counts.num_larger > 0) counts.first_parts = count_group_parts(pieces + 1, ctas + 1);
  if (counts.num_longer > counts.num_larger) counts.middle_parts = count_group_parts(pieces + 1, ctas);
  if (counts.num_longer < counts.num_larger) counts.middle_parts = count_group_parts(pieces, ctas + 1);
  counts.last_parts = count_group_parts(pieces, ctas);
  return counts;
}

inline constexpr int kTileImageBytes = 2 * kHeadTile * kTileKeys * 2 + kHeadTile * 8;  // P of a tile, two terms, and its sums

struct AttentionPlan {
  int columns = 1;  // sets of columns of the output; more than one: those of a team (attention_team.h)
  int members = 1;  // CTAs of a team, which have a group of a row's pieces in common
  int split = 1;    // CTAs, or teams, that share a row's keys
  int cluster_size = 1;
  int max_parts = 0;  // of a row in scratch memory
  int num_ctas = 0;
  int num_pieces = 0;  // of the longest row
  PartCounts counts;   // of that row

  int num_teams() const { return num_ctas / members; }
  // Tiles of a team's longest group, and bytes of scratch memory for P of all teams.
  int team_tiles() const { return counts.pieces(0) * kTiles; }
  int64_t image_bytes() const { return static_cast<int64_t>(num_teams()) * team_tiles() * kTileImageBytes; }
};

inline int num_head_tiles(const AttentionParams& params) {
  return (params.num_heads + kHeadTile - 1) / kHeadTile;
}

namespace attention_plan {

constexpr int kPartThreads = 256;

// Whether so many clusters are sure to be resident. They lie within GPCs, of which some have fewer than 16 SMs.
constexpr bool fits_clusters(int num_clusters, int cluster_size) {
  return cluster_size <= 16 && num_clusters <= 6 * (16 / cluster_size);
}

// Whether one warpgroup has all columns of a CTA.
constexpr bool has_one_group(int head_dim, int columns) {
  return head_dim <= 128 || head_dim / columns == 64;
}

// Of a CTA's sums in scratch memory. Threads of a warpgroup without columns have a place as well.
inline int64_t part_bytes(int head_dim, int columns) {
  return static_cast<int64_t>(kHeadTile) * head_dim * 4 * (has_one_group(head_dim, columns) ? 2 : 1) / columns + kPartThreads * 2 * 8;
}

// What adding up a row's parts takes, by all CTAs that share it.
inline double sum_cycles(const AttentionParams& params, const AttentionPlan& plan) {
  const double items = params.head_dim / 64.0 / plan.columns * 4 * 8, num_warps = 8.0 * plan.split;
  const int num_parts = plan.counts.num_groups * plan.counts.group_parts();  // one after the other
  return std::max(1.0, items / num_warps) * (500 + num_parts * 150.0);
}

// cost() of teams.
inline double team_cost(const AttentionParams& params, int num_sms, bool has_arrivals, AttentionPlan& plan) {
  const int num_rows = params.batch.num_tokens * num_head_tiles(params), num_teams = num_rows * plan.split;
  if (num_teams * static_cast<int64_t>(plan.members) > num_sms) return -1;  // CTAs wait for each other: all must be resident
  if (num_teams > kMaxTeams || num_rows * plan.columns > kMaxArrivals) return -1;
  if (!has_arrivals && (plan.split > 1 || !fits_clusters(num_teams, plan.members))) return -1;
  // Pairs are neighbours for what they read in common: 3 % at 64 rows. Where teams wait for each other all must be resident, and a GPU may
  // have an odd SM.
  if (!has_arrivals || (plan.members == 2 && plan.split == 1)) plan.cluster_size = plan.members;
  plan.num_ctas = num_teams * plan.members;
  plan.max_parts = plan.split > 1 ? plan.counts.num_groups : 0;
  const int64_t parts = static_cast<int64_t>(num_rows) * plan.columns * plan.max_parts * part_bytes(params.head_dim, plan.columns);
  const int64_t counters = static_cast<int64_t>(num_teams) * kTeamCounters * 4;
  if (plan.image_bytes() + counters + parts > params.scratch_bytes) return -1;
  const int own = (plan.team_tiles() + plan.members - 1) / plan.members;
  const int blocks = params.head_dim / 64 / plan.columns;  // of a CTA
  const double cycles = 12000 + own * 4500 + plan.team_tiles() * (500 + 450.0 * blocks);
  return plan.split == 1 ? cycles : cycles + 4000 + sum_cycles(params, plan);
}

// Cycles of one H200 that the slowest CTA takes for rows of the plan's pieces (docs/kernels/attention.md); sets the plan's parts, CTAs and
// clusters. Negative: the plan does not do.
inline double cost(const AttentionParams& params, int num_sms, bool has_arrivals, AttentionPlan& plan) {
  if (plan.columns > 1) return team_cost(params, num_sms, has_arrivals, plan);
  const int num_units = params.batch.num_tokens * num_head_tiles(params);
  const PartCounts& counts = plan.counts;
  const int num_pieces = plan.num_pieces, num_groups = counts.num_groups;
  const int64_t bytes = part_bytes(params.head_dim, 1);
  const double share = params.head_dim / 512.0;
  const double piece_cycles = 2500 + 8000 * (params.head_dim / 512.0) + 2500 * share;
  const double start_cycles = 10000, store_cycles = 500 + 5500 * share, output_cycles = 5000 * share;
  if (plan.split == 1) {
    plan.num_ctas = num_units < num_sms ? num_units : num_sms;
    plan.max_parts = num_groups > 1 ? num_groups : 0;
    if (plan.max_parts > 0) {
      const int64_t most = params.scratch_bytes / (plan.max_parts * bytes);
      if (most < plan.num_ctas) plan.num_ctas = static_cast<int>(most);
    }
    if (plan.num_ctas == 0) return -1;
    const int rounds = (num_units + plan.num_ctas - 1) / plan.num_ctas;
    return rounds * (start_cycles + num_pieces * piece_cycles + (num_groups - 1) * 2 * store_cycles + output_cycles);
  }
  if (num_units * static_cast<int64_t>(plan.split) > num_sms) return -1;  // CTAs wait for each other: all must be resident
  if (fits_clusters(num_units, plan.split)) {
    plan.cluster_size = plan.split;
  } else if (!has_arrivals || num_units > kMaxArrivals) {
    return -1;
  }
  plan.num_ctas = num_units * plan.split;
  for (int groups = 1; groups <= num_groups; ++groups) {  // rows may have fewer keys
    const PartCounts of_row = groups < num_groups ? count_parts(groups * kGroupPieces, plan.split) : counts;
    plan.max_parts = std::max(plan.max_parts, of_row.num_groups * of_row.group_parts());
  }
  if (num_units * plan.max_parts * bytes > params.scratch_bytes) return -1;
  double run_cycles = 0;  // of the slowest CTA's pieces, handed over
  if (counts.group_ctas == 0) {
    const int groups = (num_groups + plan.split - 1) / plan.split;
    run_cycles = groups * (counts.pieces(0) * piece_cycles + store_cycles);
  } else {
    for (int group = 0; group < num_groups; ++group) {  // the first CTA hands over a sum, the others every tile
      const int pieces = counts.pieces(group), ctas = counts.ctas(group), first = (pieces + ctas - 1) / ctas;
      const int other = ctas > 1 ? (pieces - first + ctas - 2) / (ctas - 1) : 0;
      run_cycles = std::max({run_cycles, first * piece_cycles + store_cycles, other * (piece_cycles + kTiles * store_cycles)});
    }
  }
  const double traffic_cycles = 2.0 * num_units * num_groups * counts.group_parts() * bytes / 2000;  // parts written and read, all CTAs
  return start_cycles + run_cycles + 3000 + traffic_cycles + sum_cycles(params, plan);
}

}  // namespace attention_plan

// The cheapest plan for the longest rows that the launch may have. `has_arrivals`: CTAs that are no cluster can wait for each other.
inline AttentionPlan make_attention_plan(const AttentionParams& params, int num_sms, bool has_arrivals) {
  static_assert(kAttentionMaxKeys == 32767 * kPieceKeys, "pieces are counted in 16 bits");
  const int64_t num_keys = attention_key_bound(params);
  if (num_keys > kAttentionMaxKeys) {
    fail_line("attention: rows of up to %lld keys, expected at most %lld", static_cast<long long>(num_keys),
              static_cast<long long>(kAttentionMaxKeys));
  }
  const int num_pieces = static_cast<int>((num_keys + kPieceKeys - 1) / kPieceKeys);
  const int num_groups = num_piece_groups(num_pieces);
  const int group_pieces = (num_pieces + num_groups - 1) / num_groups;  // of the longest
  const int most_ctas = num_groups * group_pieces;                      // a piece of a group each
  const bool quantises = params.output == AttentionOutput::kFp8 || params.output == AttentionOutput::kFp4;
  AttentionPlan best;
  double lowest = -1;
  const auto consider = [&](AttentionPlan& plan) {
    plan.num_pieces = num_pieces;
    plan.counts = count_parts(num_pieces, plan.split);
    const double cost = attention_plan::cost(params, num_sms, has_arrivals, plan);
    if (cost < 0 || (lowest >= 0 && cost >= lowest)) return;
    lowest = cost;
    best = plan;
  };
  for (int split = 1; split <= most_ctas && split <= num_sms; ++split) {
    AttentionPlan plan;
    plan.split = split;
    consider(plan);
  }
  for (int columns = 2; columns <= (params.head_dim == 512 && !quantises ? 8 : 1); columns *= 2) {
    for (int members = columns; members <= (has_arrivals ? std::max(columns, group_pieces * kTiles) : columns); ++members) {  // a tile each
      AttentionPlan plan;
      plan.columns = columns;
      plan.members = members;
      plan.split = num_groups;
      consider(plan);
    }
  }
  if (lowest < 0) {
    fail_line("attention: %lld bytes of scratch, expected at least %lld for %lld keys", static_cast<long long>(params.scratch_bytes),
              static_cast<long long>(num_groups * attention_plan::part_bytes(params.head_dim, 1)), static_cast<long long>(num_keys));
  }
  return best;
}

}  // namespace dsv4::cuda
