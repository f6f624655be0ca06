// The model's weights as the ops take them: views of the checkpoint's bytes in the backend's memory, never requantised.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "model/checkpoint.h"
#include "model/config.h"
#include "ops/backend.h"
#include "ops/buffer.h"

namespace dsv4 {

// Parameters of one hyper-connection (spec 2.3; of the head: spec 2.12).
struct HyperConnectionWeights {
  const float* fn = nullptr;     // [hc·(2 + hc), hc·d]; head: [hc, hc·d]
  const float* base = nullptr;   // [hc·(2 + hc)]; head: [hc]
  const float* scale = nullptr;  // [3]; head: [1]
};

// A KV compressor, the main one or the indexer's (spec 2.6); dim = head_dim or index_head_dim, width = dim·(ratio == 4 ? 2 : 1).
struct CompressorWeights {
  Bf16Weight wkv;              // [width, d]
  Bf16Weight wgate;            // [width, d]
  const float* ape = nullptr;  // [ratio, width]
  const Bf16* norm = nullptr;  // [dim]
};

// The indexer of a CSA layer (spec 2.7).
struct IndexerWeights {
  Fp8Weight wq_b;           // [index_n_heads·index_head_dim, q_lora_rank]
  Bf16Weight weights_proj;  // [index_n_heads, d]
  CompressorWeights compressor;
};

struct AttentionWeights {
  Fp8Weight wq_a;                 // [q_lora_rank, d]
  Fp8Weight wq_b;                 // [num_heads·head_dim, q_lora_rank]
  Fp8Weight wkv;                  // [head_dim, d]
  Fp8Weight wo_a;                 // [o_groups·o_lora_rank, num_heads/o_groups·head_dim]
  Fp8Weight wo_b;                 // [d, o_groups·o_lora_rank]
  const Bf16* q_norm = nullptr;   // [q_lora_rank]
  const Bf16* kv_norm = nullptr;  // [head_dim]
  const float* sink = nullptr;    // [num_heads]
  CompressorWeights compressor;   // CSA and HCA layers
  IndexerWeights indexer;         // CSA layers
};

struct MoeWeights {
  Bf16Weight gate;                   // [num_experts, d]
  const float* bias = nullptr;       // [num_experts]; scored layers
  const int64_t* tid2eid = nullptr;  // [vocab_size, num_experts_per_tok]; hash layers
  const ExpertMatrix* w1 = nullptr;  // [num_experts], in the backend's memory
  const ExpertMatrix* w2 = nullptr;
  const ExpertMatrix* w3 = nullptr;
  ExpertFormat format = ExpertFormat::kFp4;
  Fp8Weight shared_w1;
  Fp8Weight shared_w2;
  Fp8Weight shared_w3;
  int num_experts = 0;
};

struct LayerWeights {
  HyperConnectionWeights hc_attn;
  HyperConnectionWeights hc_ffn;
  const Bf16* attn_norm = nullptr;  // [d]
  const Bf16* ffn_norm = nullptr;   // [d]
  AttentionWeights attn;
  MoeWeights moe;
};

struct HeadWeights {
  HyperConnectionWeights hc;
  const Bf16* norm = nullptr;  // [d]
  Bf16Weight head;             // [vocab_size, d]
};

// The MTP block (spec 2.12); embedding and output matrix are the main model's.
struct MtpWeights {
  Fp8Weight e_proj;  // [d, d]
  Fp8Weight h_proj;  // [d, d]
  const Bf16* enorm = nullptr;
  const Bf16* hnorm = nullptr;
  LayerWeights layer;
  HeadWeights head;
};

struct ModelWeights {
  const Bf16* embed = nullptr;  // [vocab_size, d]
  std::vector<LayerWeights> layers;
  HeadWeights head;
  std::unique_ptr<MtpWeights> mtp;  // null where the checkpoint has none
  std::vector<Buffer> tables;       // owns the expert tables that MoeWeights point to, and what no import holds
};

// Told how much of the checkpoint is in the backend; `bytes_total` is Checkpoint::tensor_bytes(), which the last call reports as done.
using LoadProgress = std::function<void(int64_t bytes_done, int64_t bytes_total)>;

// Brings every tensor of an opened (and so checked) checkpoint into the backend. The checkpoint must outlive the result: a backend that
// computes in host memory uses its mapping in place, and never calls `progress`.
ModelWeights load_weights(const Checkpoint& checkpoint, Backend& backend, const LoadProgress& progress = {});

}  // namespace dsv4
