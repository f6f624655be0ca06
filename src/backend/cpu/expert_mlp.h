// The feed-forward of experts, routed or shared (spec 2.11, steps 4 and 5):
// G = bf(x·w1ᵀ), U = bf(x·w3ᵀ); h = bf( ω·silu(min(G, limit))·clamp(U, ±limit) ); out = bf( quantised(h)·w2ᵀ ).
#pragma once

#include <cmath>
#include <vector>

#include "backend/cpu/product.h"

namespace dsv4::cpu {

// One expert and the rows it computes: a contiguous range of the rows of ExpertRows.
template <class Rows>
struct ExpertJob {
  Rows w1;  // [intermediate_size, hidden_size]
  Rows w2;  // [hidden_size, intermediate_size]
  Rows w3;  // [intermediate_size, hidden_size]
  int row_begin;
  int num_rows;
};

// The rows of all jobs, those of one expert side by side.
struct ExpertRows {
  std::vector<const float*> x;  // activation, padded and in the word order of the weights
  std::vector<float> weights;   // ω
  std::vector<Bf16*> out;       // [hidden_size] each

  void reserve(size_t count) {
    x.reserve(count);
    weights.reserve(count);
    out.reserve(count);
  }
  void add(const float* row, float weight, Bf16* row_out) {
    x.push_back(row);
    weights.push_back(weight);
    out.push_back(row_out);
  }
  int count() const { return static_cast<int>(x.size()); }
};

inline Bf16 swiglu(float gate_sum, float up_sum, float limit, float weight) {
  const float gate = std::min(round_bf16(gate_sum), limit);
  const float up = std::clamp(round_bf16(up_sum), -limit, limit);
  return to_bf16(weight * (gate / (1.0f + std::exp(-gate)) * up));
}

// Every loop gives each thread the same range of weight rows in all experts, so that the threads are busy alike however the tokens are
// spread.
template <class Rows>
void expert_mlp(const std::vector<ExpertJob<Rows>>& jobs, const ExpertRows& rows, int hidden_size, int intermediate_size,
                float swiglu_limit) {
  const int h_stride = padded(intermediate_size);
  const size_t h_count = static_cast<size_t>(rows.count()) * intermediate_size;
  const auto h = std::make_unique_for_overwrite<Bf16[]>(h_count);
  const auto h_floats = std::make_unique_for_overwrite<float[]>(static_cast<size_t>(rows.count()) * h_stride);
  const int64_t num_jobs = static_cast<int64_t>(jobs.size());
  const int rows_per_job = num_jobs > 0 ? rows.count() / static_cast<int>(num_jobs) : 0;

  parallel_for(ceil_div(intermediate_size, kRowTile), 2 * num_jobs * tile_work(hidden_size, rows_per_job), [&](int64_t begin, int64_t end) {
    float gate[kTokenBlock][kRowTile];
    float up[kTokenBlock][kRowTile];
    for (const ExpertJob<Rows>& job : jobs) {
      for (int64_t tile = begin; tile < end; ++tile) {
        const int weight_begin = static_cast<int>(tile) * kRowTile;
        const int num_weights = std::min(kRowTile, intermediate_size - weight_begin);
        for (int block = 0; block < job.num_rows; block += kTokenBlock) {
          const int num_rows = std::min(kTokenBlock, job.num_rows - block);
          const int first = job.row_begin + block;
          multiply_tile(job.w1, weight_begin, num_weights, rows.x.data() + first, num_rows, gate);
          multiply_tile(job.w3, weight_begin, num_weights, rows.x.data() + first, num_rows, up);
          for (int i = 0; i < num_rows; ++i) {
            Bf16* h_row = h.get() + static_cast<int64_t>(first + i) * intermediate_size + weight_begin;
            for (int r = 0; r < num_weights; ++r) h_row[r] = swiglu(gate[i][r], up[i][r], swiglu_limit, rows.weights[first + i]);
          }
        }
      }
    }
  });

  parallel_for(rows.count(), 8 * intermediate_size, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int k = 0; k < intermediate_size; k += kFp8Block) {
        const int count = std::min(kFp8Block, intermediate_size - k);
        uint8_t codes[kFp8Block];
        uint8_t scale;
        quantize_fp8_block(h.get() + row * intermediate_size + k, count, codes, &scale);
        float natural[kFp8Block];
        fp8_to_float(codes, &scale, count, natural);
        to_word_order(natural, count, Rows::kPerWord, h_floats.get() + row * h_stride + k);
      }
    }
  });

  std::vector<const float*> h_rows(rows.x.size());
  for (size_t i = 0; i < h_rows.size(); ++i) h_rows[i] = h_floats.get() + i * static_cast<size_t>(h_stride);
  parallel_for(ceil_div(hidden_size, kRowTile), num_jobs * tile_work(intermediate_size, rows_per_job), [&](int64_t begin, int64_t end) {
    float sums[kTokenBlock][kRowTile];
    for (const ExpertJob<Rows>& job : jobs) {
      for (int64_t tile = begin; tile < end; ++tile) {
        const int weight_begin = static_cast<int>(tile) * kRowTile;
        const int num_weights = std::min(kRowTile, hidden_size - weight_begin);
        for (int block = 0; block < job.num_rows; block += kTokenBlock) {
          const int num_rows = std::min(kTokenBlock, job.num_rows - block);
          const int first = job.row_begin + block;
          multiply_tile(job.w2, weight_begin, num_weights, h_rows.data() + first, num_rows, sums);
          for (int i = 0; i < num_rows; ++i) {
            for (int r = 0; r < num_weights; ++r) rows.out[first + i][weight_begin + r] = to_bf16(sums[i][r]);
          }
        }
      }
    }
  });
}

}  // namespace dsv4::cpu
