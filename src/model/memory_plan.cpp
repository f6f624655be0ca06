#include "model/memory_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "base/error.h"
#include "model/decode.h"
#include "model/kv_cache.h"
#include "model/workspace.h"

namespace dsv4 {
namespace {

constexpr double kGib = 1024.0 * 1024.0 * 1024.0;
constexpr int kMaxGpus = 1024;
constexpr int kMaxSeqs = 16384;
constexpr int kMaxStepTokens = 65536;

int64_t num_pages(int64_t context) {
  return (context + kPagePositions - 1) / kPagePositions;
}

void check_request(const ModelConfig& config, const MemoryRequest& request) {
  require(request.num_gpus >= 1 && request.num_gpus <= kMaxGpus, "{} GPUs, expected 1 to {}", request.num_gpus, kMaxGpus);
  require(request.gpu_memory_gib >= 0.0 && request.gpu_memory_gib <= 1e6, "{} GiB of GPU memory, expected 0 to 1000000",
          request.gpu_memory_gib);
  require(request.context >= 1 && request.context <= config.max_position_embeddings,
          "a context of {}, expected 1 to {} (max_position_embeddings)", request.context, config.max_position_embeddings);
  require(request.num_seqs >= 1 && request.num_seqs <= kMaxSeqs, "{} sequences, expected 1 to {}", request.num_seqs, kMaxSeqs);
  require(request.max_step_tokens >= 1 && request.max_step_tokens <= kMaxStepTokens, "steps of {} tokens, expected 1 to {}",
          request.max_step_tokens, kMaxStepTokens);
  require(request.max_logits_rows >= 1 && request.max_logits_rows <= kMaxStepTokens, "logits of {} rows, expected 1 to {}",
          request.max_logits_rows, kMaxStepTokens);
}

// Routed experts of every block, from the gates of the list.
std::vector<int> expert_counts(const ModelConfig& config, std::span<const TensorSpec> specs) {
  std::vector<int> counts(static_cast<size_t>(config.num_blocks()), 0);
  for (const TensorSpec& spec : specs) {
    if (spec.name.ends_with("ffn.gate.weight")) counts[static_cast<size_t>(spec.layer)] = static_cast<int>(spec.shape[0]);
  }
  return counts;
}

struct WeightSplit {
  int64_t split = 0;  // all GPUs together
  int64_t replicated = 0;
  bool with_mtp = false;
};

WeightSplit sum_weights(const ModelConfig& config, std::span<const TensorSpec> specs) {
  WeightSplit sums;
  for (const TensorSpec& spec : specs) {
    (spec.split_over_gpus ? sums.split : sums.replicated) += spec.bytes();
    sums.with_mtp = sums.with_mtp || config.is_mtp(spec.layer);
  }
  return sums;
}

// What stands beside the activations: rows of the head, logits, and the page table and token lists of a step.
int64_t head_and_tables(const ModelConfig& config, const MemoryRequest& request) {
  const int64_t hidden = config.hidden_size;
  const int64_t row = (int64_t{config.hc_mult} + 2) * hidden * static_cast<int64_t>(sizeof(Bf16)) +
                      int64_t{config.vocab_size} * static_cast<int64_t>(sizeof(float));
  const int64_t ids = int64_t{3} * request.max_step_tokens + request.num_seqs * (num_pages(config.max_position_embeddings) + 2);
  return request.max_logits_rows * row + ids * static_cast<int64_t>(sizeof(int32_t));
}

MemoryPlan make_plan(const ModelConfig& config, const WeightSplit& weights, const MemoryRequest& request) {
  MemoryPlan plan;
  plan.request = request;
  plan.with_mtp = weights.with_mtp;
  plan.split_weights = weights.split / request.num_gpus;
  plan.replicated_weights = weights.replicated;
  const int64_t pages = num_pages(request.context) * request.num_seqs;
  const int num_layers = config.num_hidden_layers + (weights.with_mtp ? 1 : 0);
  for (int layer = 0; layer < num_layers; ++layer) {
    const LayerCacheBytes bytes = layer_cache_bytes(config, layer, request.max_step_tokens);
    plan.main_entries += pages * bytes.entries_per_page;
    plan.index_entries += pages * bytes.index_entries_per_page;
    plan.rings += request.num_seqs * bytes.ring_per_slot;
    plan.states += request.num_seqs * (bytes.state_per_slot + bytes.index_state_per_slot);
  }
  const WorkspaceSize size{request.max_step_tokens, decode_size(request.num_seqs), request.context, weights.with_mtp};
  plan.workspace = Workspace::bytes_needed(config, size) + head_and_tables(config, request) +
                   DecodeStep::bytes_needed(config, request.num_seqs, request.context);
  plan.available = static_cast<int64_t>(request.gpu_memory_gib * kGib);
  return plan;
}

// The largest value in [0, high] for which `fits` holds, where it holds for every smaller one too; 0 counts as fitting.
template <typename Fits>
int64_t largest(int64_t high, Fits fits) {
  int64_t low = 0;
  while (low < high) {
    const int64_t middle = low + (high - low + 1) / 2;
    if (fits(middle)) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

void find_what_fits(const ModelConfig& config, const WeightSplit& weights, std::span<const int> num_experts, MemoryPlan& plan) {
  const auto fits = [&](int64_t context, int64_t num_seqs, int num_gpus) {
    MemoryRequest request = plan.request;
    request.context = context;
    request.num_seqs = static_cast<int>(num_seqs);
    request.num_gpus = num_gpus;
    return make_plan(config, weights, request).fits();
  };
  const MemoryRequest& asked = plan.request;
  const int64_t pages = largest(num_pages(config.max_position_embeddings),
                                [&](int64_t count) { return fits(count * kPagePositions, asked.num_seqs, asked.num_gpus); });
  plan.max_context = std::min<int64_t>(pages * kPagePositions, config.max_position_embeddings);
  plan.max_seqs = static_cast<int>(largest(kMaxSeqs, [&](int64_t count) { return fits(asked.context, count, asked.num_gpus); }));
  for (int num_gpus = 1; num_gpus <= kMaxGpus && plan.min_gpus == 0; ++num_gpus) {
    if (fits(asked.context, asked.num_seqs, num_gpus) && split_problem(config, num_experts, num_gpus).empty()) plan.min_gpus = num_gpus;
  }
}

std::string plural(int64_t count, const char* noun) {
  return fmt::format("{} {}{}", grouped_digits(count), noun, count == 1 ? "" : "s");
}

}  // namespace

std::string grouped_digits(int64_t value) {
  std::string digits = fmt::format("{}", value);
  const size_t first = value < 0 ? 1 : 0;
  for (size_t i = digits.size(); i > first + 3;) {
    i -= 3;
    digits.insert(i, 1, ',');
  }
  return digits;
}

std::string size_text(int64_t bytes) {
  constexpr int64_t kKib = 1024;
  const auto in = [bytes](int64_t unit) { return static_cast<double>(bytes) / static_cast<double>(unit); };
  if (bytes >= kKib * kKib * kKib) return fmt::format("{:.2f} GiB", in(kKib * kKib * kKib));
  if (bytes >= kKib * kKib) return fmt::format("{:.2f} MiB", in(kKib * kKib));
  if (bytes >= kKib) return fmt::format("{:.2f} KiB", in(kKib));
  return fmt::format("{} bytes", bytes);
}

std::string split_problem(const ModelConfig& config, std::span<const int> num_experts, int num_gpus) {
  if (num_gpus == 1) return "";
  bool csa = false;
  for (int layer = 0; layer < config.num_hidden_layers; ++layer) csa = csa || config.layer_kind(layer) == LayerKind::kCsa;
  struct Part {
    const char* name;
    int count;
    int rows;  // of an FP8 matrix that go with each; 0: none
  };
  std::vector<Part> parts = {{"num_attention_heads", config.num_attention_heads, config.head_dim},
                             {"o_groups", config.o_groups, config.o_lora_rank},
                             {"vocab_size", config.vocab_size, 0}};
  if (csa) parts.push_back({"index_n_heads", config.index_n_heads, config.index_head_dim});
  for (const Part& part : parts) {
    if (part.count % num_gpus != 0) return fmt::format("{} ({}) cannot be divided evenly among {} GPUs", part.name, part.count, num_gpus);
    const int64_t rows = int64_t{part.count} / num_gpus * part.rows;
    if (rows % kFp8Block != 0) {
      return fmt::format("{} ({}) among {} GPUs: {} matrix rows each, expected a multiple of {}, the block of FP8 scales", part.name,
                         part.count, num_gpus, rows, kFp8Block);
    }
  }
  for (size_t layer = 0; layer < num_experts.size(); ++layer) {
    if (num_experts[layer] % num_gpus != 0) {
      return fmt::format("{}ffn: {} routed experts cannot be divided evenly among {} GPUs", block_prefix(config, static_cast<int>(layer)),
                         num_experts[layer], num_gpus);
    }
  }
  return "";
}

MemoryPlan plan_memory(const ModelConfig& config, std::span<const TensorSpec> specs, const MemoryRequest& request) {
  MemoryRequest filled = request;
  if (filled.context == 0) filled.context = config.max_position_embeddings;
  check_request(config, filled);
  const std::vector<int> num_experts = expert_counts(config, specs);
  const std::string problem = split_problem(config, num_experts, filled.num_gpus);
  require(problem.empty(), "{}", problem);
  const WeightSplit weights = sum_weights(config, specs);
  MemoryPlan plan = make_plan(config, weights, filled);
  if (!plan.fits()) find_what_fits(config, weights, num_experts, plan);
  return plan;
}

std::string fit_line(const MemoryPlan& plan) {
  const std::string needs = fmt::format("needs {} per GPU", size_text(plan.needed()));
  if (plan.available == 0) return needs;
  if (plan.fits()) return fmt::format("{}, fits in {}", needs, size_text(plan.available));
  std::string options;
  const auto add = [&options](const std::string& option) { options += (options.empty() ? "" : ", or ") + option; };
  if (plan.max_context > 0) {
    add(fmt::format("a context of {} for {}", grouped_digits(plan.max_context), plural(plan.request.num_seqs, "sequence")));
  }
  if (plan.max_seqs > 0) add(fmt::format("{} of {} positions", plural(plan.max_seqs, "sequence"), grouped_digits(plan.request.context)));
  if (plan.min_gpus > 0) add(plural(plan.min_gpus, "GPU"));
  if (options.empty()) options = "nothing on GPUs of this size";
  return fmt::format("{}, but there are {}; what would fit: {}", needs, size_text(plan.available), options);
}

std::string plan_text(const MemoryPlan& plan) {
  const MemoryRequest& request = plan.request;
  std::string text = fmt::format("memory per GPU: {}, {} of {} positions, steps of {} tokens{}\n", plural(request.num_gpus, "GPU"),
                                 plural(request.num_seqs, "sequence"), grouped_digits(request.context), request.max_step_tokens,
                                 plan.with_mtp ? ", with MTP" : "");
  const auto row = [&text](const char* name, int64_t bytes) {
    text += fmt::format("  {:<28}{:>22}{:>14}\n", name, grouped_digits(bytes), size_text(bytes));
  };
  row("weights, split", plan.split_weights);
  row("weights, on every GPU", plan.replicated_weights);
  row("KV entries", plan.main_entries);
  row("indexer entries", plan.index_entries);
  row("window rings", plan.rings);
  row("compressor states", plan.states);
  row("workspace (estimate)", plan.workspace);
  row("needed", plan.needed());
  if (plan.available > 0) row("available", plan.available);
  return text + "  " + fit_line(plan) + "\n";
}

nlohmann::ordered_json plan_json(const MemoryPlan& plan) {
  nlohmann::ordered_json json;
  json["num_gpus"] = plan.request.num_gpus;
  json["num_seqs"] = plan.request.num_seqs;
  json["context"] = plan.request.context;
  json["max_step_tokens"] = plan.request.max_step_tokens;
  json["with_mtp"] = plan.with_mtp;
  json["split_weights"] = plan.split_weights;
  json["replicated_weights"] = plan.replicated_weights;
  json["main_entries"] = plan.main_entries;
  json["index_entries"] = plan.index_entries;
  json["rings"] = plan.rings;
  json["states"] = plan.states;
  json["workspace"] = plan.workspace;
  json["needed"] = plan.needed();
  if (plan.available == 0) return json;
  json["available"] = plan.available;
  json["fits"] = plan.fits();
  if (plan.fits()) return json;
  json["would_fit"] = {{"context", plan.max_context}, {"num_seqs", plan.max_seqs}, {"num_gpus", plan.min_gpus}};
  return json;
}

}  // namespace dsv4
