// Activations of a step: one allocation, reused by every layer.
#pragma once

#include "model/config.h"
#include "ops/buffer.h"

namespace dsv4 {

// What a workspace is made for.
struct WorkspaceSize {
  int max_tokens = 1;       // rows of a step
  int num_decode_rows = 0;  // rows of a decode step, whose scores have room for max_context positions each
  int64_t max_context = 0;  // of one sequence
  bool with_mtp = false;
};

// What mHC before a sub-layer leaves for after it (spec 2.3).
struct HyperConnectionState {
  float* post = nullptr;  // [T, hc]
  float* comb = nullptr;  // [T, hc, hc]
};

// Pointers into the workspace; T = rows of a step, d = hidden_size, hc = hc_mult. Names follow spec section 2.
struct Workspace {
  Workspace(const ModelConfig& config, const WorkspaceSize& size, Backend& backend);
  // What the constructor allocates, for the memory plan.
  static int64_t bytes_needed(const ModelConfig& config, const WorkspaceSize& size);

  Bf16* streams = nullptr;      // [T, hc, d]
  Bf16* mtp_streams = nullptr;  // [T, hc, d]
  Bf16* x = nullptr;            // [T, d], collapsed streams
  Bf16* u = nullptr;            // [T, d], sub-layer input
  uint8_t* u_codes = nullptr;   // [T, d]
  uint8_t* u_scales = nullptr;
  Bf16* u_values = nullptr;      // [T, d]
  HyperConnectionState hc_attn;  // two, as the one is read while the other is written
  HyperConnectionState hc_ffn;
  Bf16* y = nullptr;  // [T, d], sub-layer output

  Bf16* qa = nullptr;           // [T, q_lora_rank]
  Bf16* qr = nullptr;           // [T, q_lora_rank]
  uint8_t* qr_codes = nullptr;  // [T, q_lora_rank]
  uint8_t* qr_scales = nullptr;
  Bf16* qr_values = nullptr;       // [T, q_lora_rank]
  Bf16* q = nullptr;               // [T, num_heads, head_dim]
  Bf16* kv = nullptr;              // [T, head_dim]
  float* compressor_kv = nullptr;  // [T, width], main compressor
  float* compressor_gate = nullptr;
  float* index_compressor_kv = nullptr;  // [T, width], the indexer's
  float* index_compressor_gate = nullptr;
  Bf16* attn = nullptr;        // [T, num_heads, head_dim]
  Bf16* z = nullptr;           // [T, o_groups·o_lora_rank]
  uint8_t* z_codes = nullptr;  // [T, o_groups·o_lora_rank]
  uint8_t* z_scales = nullptr;
  Bf16* z_values = nullptr;  // [T, o_groups·o_lora_rank]

  Bf16* iq = nullptr;           // [T, index_n_heads, index_head_dim]
  uint8_t* iq_codes = nullptr;  // [T, index_n_heads, index_head_dim/2]
  uint8_t* iq_scales = nullptr;
  Bf16* index_weights = nullptr;  // [T, index_n_heads]
  Bf16* scores = nullptr;         // [score_capacity]
  int64_t score_capacity = 0;
  int32_t* selected = nullptr;  // [T, index_topk]

  int32_t* experts = nullptr;       // [T, num_experts_per_tok]
  float* expert_weights = nullptr;  // [T, num_experts_per_tok]
  Bf16* routed = nullptr;           // [T, num_experts_per_tok, d]
  Bf16* shared = nullptr;           // [T, d]
  uint8_t* scratch = nullptr;       // of attention, and after it of the experts
  int64_t scratch_bytes = 0;

  Bf16* mtp_e = nullptr;           // [T, d]
  Bf16* mtp_g = nullptr;           // [T, hc, d]
  uint8_t* mtp_g_codes = nullptr;  // [T, hc, d]
  uint8_t* mtp_g_scales = nullptr;
  Bf16* mtp_g_values = nullptr;  // [T, hc, d]

 private:
  // Assigns every pointer from `base` (nullptr: only counts) and returns the bytes used.
  int64_t place(const ModelConfig& config, const WorkspaceSize& size, uint8_t* base);
  Workspace() = default;

  Buffer memory_;
};

}  // namespace dsv4
