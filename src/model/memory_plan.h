// What a model needs in memory, per GPU, before anything is loaded (spec 4.4, 5.3; design section 6).
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "model/config.h"
#include "model/tensor_specs.h"

namespace dsv4 {

struct MemoryRequest {
  int num_gpus = 1;
  double gpu_memory_gib = 0.0;  // of each GPU; 0: unknown, nothing is compared
  int64_t context = 0;          // positions of every sequence; 0: max_position_embeddings
  int num_seqs = 1;             // sequences open at once
  int max_step_tokens = 512;    // rows of one step, and the longest run of one sequence in it
  int max_logits_rows = 16;     // rows whose logits are computed at once
};

// Bytes on each GPU. Weights are divided as tensor parallelism does (spec 2.13): heads, groups of wo_a, vocabulary, indexer heads and
// routed experts; everything else and all caches are on every GPU.
struct MemoryPlan {
  MemoryRequest request;  // context filled in
  bool with_mtp = false;

  int64_t split_weights = 0;  // this GPU's part
  int64_t replicated_weights = 0;
  int64_t main_entries = 0;   // compressed entries, whole pages of kPagePositions positions
  int64_t index_entries = 0;  // the same for the indexer
  int64_t rings = 0;          // window entries, with room for a step
  int64_t states = 0;         // compressors
  int64_t workspace = 0;      // activations, logits and tables; not divided: an upper bound

  int64_t available = 0;  // of one GPU; 0: unknown
  // What would fit instead, where the plan does not; 0: none would.
  int64_t max_context = 0;  // with the requested sequences
  int max_seqs = 0;         // with the requested context
  int min_gpus = 0;         // with both

  int64_t weights() const { return split_weights + replicated_weights; }
  int64_t kv() const { return main_entries + index_entries + rings + states; }
  int64_t needed() const { return weights() + kv() + workspace; }
  bool fits() const { return available == 0 || needed() <= available; }
};

// Why the weights cannot be divided evenly over `num_gpus`, one line; "" if they can. `num_experts` as in tensor_specs.
std::string split_problem(const ModelConfig& config, std::span<const int> num_experts, int num_gpus);

// Plans for a model of these tensors (from tensor_specs). Throws Error for a request out of range or an uneven split.
MemoryPlan plan_memory(const ModelConfig& config, std::span<const TensorSpec> specs, const MemoryRequest& request);

// "needs 152.1 GiB per GPU, fits in 160.0 GiB" or "needs …, but there are …; what would fit: …".
std::string fit_line(const MemoryPlan& plan);

// The plan as a table of several lines, and as JSON.
std::string plan_text(const MemoryPlan& plan);
nlohmann::ordered_json plan_json(const MemoryPlan& plan);

// "159,609,485,896"; "148.65 GiB", or in MiB, KiB or bytes where that is the largest unit that leaves at least 1.
std::string grouped_digits(int64_t value);
std::string size_text(int64_t bytes);

}  // namespace dsv4
