#include "model/workspace.h"

#include <algorithm>

#include "ops/batch.h"
#include "ops/experts.h"
#include "ops/kv_layout.h"

namespace dsv4 {
namespace {

// Index scores are computed for as many rows at a time as fit: at least kMinScores elements and one row, and, up to kMaxScores, every row
// of a decode step.
constexpr int64_t kMinScores = int64_t{4} << 20;
constexpr int64_t kMaxScores = int64_t{64} << 20;

// Hands out aligned pieces of one allocation.
class Carver {
 public:
  explicit Carver(uint8_t* base) : base_(base) {}

  template <typename T>
  void take(T*& pointer, int64_t count) {
    if (base_ != nullptr) pointer = reinterpret_cast<T*>(base_ + used_);
    used_ += (count * static_cast<int64_t>(sizeof(T)) + kAlignment - 1) / kAlignment * kAlignment;
  }
  int64_t used() const { return used_; }

 private:
  static constexpr int64_t kAlignment = 256;
  uint8_t* base_;
  int64_t used_ = 0;
};

}  // namespace

int64_t Workspace::place(const ModelConfig& config, const WorkspaceSize& size, uint8_t* base) {
  Carver carver(base);
  const int64_t tokens = std::max(size.max_tokens, size.num_decode_rows);
  const int64_t hidden = config.hidden_size;
  const int64_t hc = config.hc_mult;
  const auto take_codes = [&](uint8_t*& codes, uint8_t*& scales, Bf16*& values, int64_t rows, int64_t dim) {
    carver.take(codes, rows * dim);
    carver.take(values, rows * dim);
    carver.take(scales, rows * ((dim + kFp8Block - 1) / kFp8Block));
  };
  carver.take(streams, tokens * hc * hidden);
  carver.take(x, tokens * hidden);
  carver.take(u, tokens * hidden);
  take_codes(u_codes, u_scales, u_values, tokens, hidden);
  for (HyperConnectionState* state : {&hc_attn, &hc_ffn}) {
    carver.take(state->post, tokens * hc);
    carver.take(state->comb, tokens * hc * hc);
  }
  carver.take(y, tokens * hidden);

  carver.take(qa, tokens * config.q_lora_rank);
  carver.take(qr, tokens * config.q_lora_rank);
  take_codes(qr_codes, qr_scales, qr_values, tokens, config.q_lora_rank);
  carver.take(q, tokens * config.num_attention_heads * config.head_dim);
  carver.take(kv, tokens * config.head_dim);
  carver.take(compressor_kv, tokens * 2 * config.head_dim);
  carver.take(compressor_gate, tokens * 2 * config.head_dim);
  carver.take(index_compressor_kv, tokens * 2 * config.index_head_dim);
  carver.take(index_compressor_gate, tokens * 2 * config.index_head_dim);
  carver.take(attn, tokens * config.num_attention_heads * config.head_dim);
  carver.take(z, tokens * config.o_groups * config.o_lora_rank);
  take_codes(z_codes, z_scales, z_values, tokens, static_cast<int64_t>(config.o_groups) * config.o_lora_rank);

  carver.take(iq, tokens * config.index_n_heads * config.index_head_dim);
  carver.take(iq_codes, tokens * config.index_n_heads * config.index_head_dim / 2);
  carver.take(iq_scales, tokens * config.index_n_heads * config.index_head_dim / kIndexerFp4Block);
  carver.take(index_weights, tokens * config.index_n_heads);
  // A decode step's rows are as wide as the page tables of their sequences (kPagePositions at a time).
  const int64_t decode_row = (size.max_context + kPagePositions) / 4;
  const int64_t any_row = (int64_t{config.max_position_embeddings} + kPagePositions) / 4;
  score_capacity = std::max(std::clamp(size.num_decode_rows * decode_row, kMinScores, kMaxScores), any_row);
  carver.take(scores, score_capacity);
  carver.take(selected, tokens * config.index_topk);

  carver.take(experts, tokens * config.num_experts_per_tok);
  carver.take(expert_weights, tokens * config.num_experts_per_tok);
  carver.take(routed, tokens * config.num_experts_per_tok * hidden);
  carver.take(shared, tokens * hidden);
  scratch_bytes = std::max(attention_scratch_bytes(tokens, config.num_attention_heads, config.head_dim),
                           experts_scratch_bytes(tokens, config.num_experts_per_tok, kMaxRoutedExperts, config.moe_intermediate_size));
  carver.take(scratch, scratch_bytes);

  if (size.with_mtp) {
    carver.take(mtp_streams, tokens * hc * hidden);
    carver.take(mtp_e, tokens * hidden);
    carver.take(mtp_g, tokens * hc * hidden);
    take_codes(mtp_g_codes, mtp_g_scales, mtp_g_values, tokens * hc, hidden);
  }
  return carver.used();
}

int64_t Workspace::bytes_needed(const ModelConfig& config, const WorkspaceSize& size) {
  return Workspace().place(config, size, nullptr);
}

Workspace::Workspace(const ModelConfig& config, const WorkspaceSize& size, Backend& backend)
    : memory_(backend, static_cast<size_t>(bytes_needed(config, size))) {
  place(config, size, memory_.as<uint8_t>());
}

}  // namespace dsv4
