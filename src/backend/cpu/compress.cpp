#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "backend/cpu/hadamard.h"
#include "backend/cpu/kv_codec.h"
#include "backend/cpu/ops.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/rms_norm.h"
#include "backend/cpu/rope.h"
#include "base/error.h"

namespace dsv4::cpu {
namespace {

// A block of `ratio` positions that a row of this step completes.
struct Block {
  int seq_idx;
  int block_idx;
};

std::vector<Block> completed_blocks(const BatchView& batch, int ratio) {
  std::vector<Block> blocks;
  for (int seq = 0; seq < batch.num_seqs; ++seq) {
    const int num_rows = batch.row_begin[seq + 1] - batch.row_begin[seq];
    if (num_rows == 0) continue;
    const int first_position = batch.positions[batch.row_begin[seq]];
    if (first_position < 0) continue;  // padding
    const int end_position = first_position + num_rows;
    for (int block = first_position / ratio; block < end_position / ratio; ++block) blocks.push_back({seq, block});
  }
  return blocks;
}

// Where the (a, b) rows of one sequence's positions stand: in this step's inputs from `first_position` on, before it in the state.
struct TokenRows {
  const CompressParams& params;
  int row_begin;
  int first_position;
  const float* state;  // the sequence's, [2, state_tokens, width]

  TokenRows(const CompressParams& p, int seq_idx)
      : params(p),
        row_begin(p.batch.row_begin[seq_idx]),
        first_position(p.batch.positions[row_begin]),
        state(p.state + static_cast<size_t>(p.batch.slots[seq_idx]) * 2 * p.state_tokens * p.width()) {}

  // a and b (ape included) of channels [channel, channel + dim) at `position`; b is written to `gate` [dim].
  const float* read(int position, int channel, float* gate) const {
    const size_t width = params.width();
    if (position < first_position) {
      const size_t ring_idx = position % params.state_tokens;
      std::memcpy(gate, state + (params.state_tokens + ring_idx) * width + channel, params.dim * sizeof(float));
      return state + ring_idx * width + channel;
    }
    const size_t row = row_begin + (position - first_position);
    const float* gate_row = params.gate + row * width + channel;
    const float* ape = params.ape + (position % params.ratio) * width + channel;
    for (int i = 0; i < params.dim; ++i) gate[i] = gate_row[i] + ape[i];
    return params.kv + row * width + channel;
  }
};

// Buffers of one thread: the slots of a block (at most 8 for ratio 4, 128 for ratio 128).
struct Slots {
  std::vector<const float*> a;  // [num_slots] → [dim]
  std::vector<float> weight;    // [num_slots, dim]: b, then e^(b − max), then the softmax
  std::vector<float> max, sum;  // [dim]

  Slots(int capacity, int dim) : weight(static_cast<size_t>(capacity) * dim), max(dim), sum(dim) { a.reserve(capacity); }

  void add(const TokenRows& rows, int position, int channel) {
    float* gate = weight.data() + a.size() * max.size();
    a.push_back(rows.read(position, channel, gate));
  }

  // e[i] = Σ_slots softmax(b)[slot, i]·a[slot, i], slots in ascending position, fp32.
  void gather(float* e) {
    const int dim = static_cast<int>(max.size());
    std::copy_n(weight.data(), dim, max.data());
    for (size_t slot = 1; slot < a.size(); ++slot) {
      for (int i = 0; i < dim; ++i) max[i] = std::max(max[i], weight[slot * dim + i]);
    }
    std::fill(sum.begin(), sum.end(), 0.0f);
    for (size_t slot = 0; slot < a.size(); ++slot) {
      float* w = weight.data() + slot * dim;
      for (int i = 0; i < dim; ++i) {
        w[i] = std::exp(w[i] - max[i]);
        sum[i] += w[i];
      }
    }
    std::fill_n(e, dim, 0.0f);
    for (size_t slot = 0; slot < a.size(); ++slot) {
      const float* w = weight.data() + slot * dim;
      for (int i = 0; i < dim; ++i) e[i] += w[i] / sum[i] * a[slot][i];
    }
  }
};

void collect_slots(const CompressParams& params, const Block& block, Slots& slots) {
  const TokenRows rows(params, block.seq_idx);
  const int begin = block.block_idx * params.ratio;
  slots.a.clear();
  if (params.ratio == 4) {
    // The previous block speaks through the first half of the channels, the block itself through the second.
    for (int position = std::max(begin - 4, 0); position < begin; ++position) slots.add(rows, position, 0);
    for (int position = begin; position < begin + 4; ++position) slots.add(rows, position, params.dim);
  } else {
    for (int position = begin; position < begin + params.ratio; ++position) slots.add(rows, position, 0);
  }
}

// Rounds, norms, rotates and quantises e, and stores it as entry `block_idx` of the sequence (spec 2.6).
void store_entry(const CompressParams& params, const Block& block, float* e) {
  const int dim = params.dim;
  for (int i = 0; i < dim; ++i) e[i] = round_bf16(e[i]);
  rms_norm_row(params.weight, dim, params.eps, e);
  rotate(make_rotation(block.block_idx * params.ratio, params.freqs, kRopeDim), kRopeDim, e + dim - kRopeDim);

  const int entries_per_page = params.entries.entries_per_page;
  const int64_t table_begin = static_cast<int64_t>(block.seq_idx) * params.batch.page_table_stride;
  const int32_t page = params.batch.page_table[table_begin + block.block_idx / entries_per_page];
  const int entry_idx = block.block_idx % entries_per_page;
  if (params.format == EntryFormat::kFp8) {
    const KvEntryLayout layout{dim};
    pack_kv_entry(layout, e, entry_bytes(layout, params.entries.data, page, entries_per_page, entry_idx));
  } else {
    const IndexEntryLayout layout{dim};
    const EntryBytes entry = entry_bytes(layout, params.entries.data, page, entries_per_page, entry_idx);
    hadamard(e, dim);
    pack_fp4_row(dim, e, entry.values, entry.scales);
  }
}

// Keeps the last state_tokens rows of the sequence by position.
void update_state(const CompressParams& params, int seq_idx) {
  const size_t width = params.width();
  const int row_end = params.batch.row_begin[seq_idx + 1];
  const int row_begin = std::max(params.batch.row_begin[seq_idx], row_end - params.state_tokens);
  const int32_t slot = params.batch.slots[seq_idx];
  if (slot < 0) return;  // padding
  float* state = params.state + static_cast<size_t>(slot) * 2 * params.state_tokens * width;
  for (int row = row_begin; row < row_end; ++row) {
    const int position = params.batch.positions[row];
    if (position < 0) continue;  // padding
    float* a = state + (position % params.state_tokens) * width;
    float* b = a + params.state_tokens * width;
    const float* gate = params.gate + row * width;
    const float* ape = params.ape + (position % params.ratio) * width;
    std::memcpy(a, params.kv + row * width, width * sizeof(float));
    for (size_t i = 0; i < width; ++i) b[i] = gate[i] + ape[i];
  }
}

}  // namespace

void compress(const CompressParams& params) {
  const int dim = params.dim;
  const int num_slots = params.ratio == 4 ? 8 : params.ratio;
  require(params.ratio == 4 || params.ratio == 128, "compress: ratio {}, expected 4 or 128", params.ratio);
  require(params.state_tokens >= num_slots, "compress: state of {} tokens, expected at least {}", params.state_tokens, num_slots);
  require(dim >= kRopeDim && dim % kKvBlock == 0 && (params.format == EntryFormat::kFp8 || is_hadamard_dim(dim)),
          "compress: dim {} does not fit the entry format", dim);

  const std::vector<Block> blocks = completed_blocks(params.batch, params.ratio);
  parallel_for(static_cast<int64_t>(blocks.size()), 32LL * num_slots * dim, [&](int64_t begin, int64_t end) {
    Slots slots(num_slots, dim);
    std::vector<float> e(dim);
    for (int64_t i = begin; i < end; ++i) {
      collect_slots(params, blocks[i], slots);
      slots.gather(e.data());
      store_entry(params, blocks[i], e.data());
    }
  });
  // Only now: the entries above read what the state held before this step.
  parallel_for(params.batch.num_seqs, 2LL * params.width(), [&](int64_t begin, int64_t end) {
    for (int64_t seq = begin; seq < end; ++seq) update_state(params, static_cast<int>(seq));
  });
}

}  // namespace dsv4::cpu
