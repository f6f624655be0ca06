#include "runtime/capacity.h"

#include <algorithm>
#include <string_view>

#include "base/error.h"
#include "base/log.h"

namespace dsv4 {
namespace {

constexpr double kGib = 1024.0 * 1024.0 * 1024.0;
// Kernels' own memory, graphs, and slots of the loader; and the ends of large allocations of weights.
constexpr int64_t kReservedBytes = int64_t{1} << 30;
constexpr int64_t kReservedShareOfWeights = 128;

void log_plan(const MemoryPlan& plan) {
  const std::string text = plan_text(plan);
  for (std::string_view rest = text; !rest.empty();) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    log_warn("{}", rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
}

}  // namespace

std::vector<TensorSpec> tensor_specs(const Checkpoint& checkpoint) {
  return tensor_specs(checkpoint.config(), checkpoint.has_mtp(), checkpoint.num_experts());
}

MemoryPlan plan_device(const ModelConfig& config, std::span<const TensorSpec> specs, const MemoryRequest& request, int64_t free_bytes) {
  MemoryRequest asked = request;
  asked.num_gpus = 1;
  asked.gpu_memory_gib = 0.0;
  MemoryPlan plan = plan_memory(config, specs, asked);
  if (free_bytes == 0) return plan;
  // At least a byte: 0 would stand for unknown.
  const int64_t available = std::max<int64_t>(free_bytes - kReservedBytes - plan.weights() / kReservedShareOfWeights, 1);
  asked.gpu_memory_gib = static_cast<double>(available) / kGib;
  plan = plan_memory(config, specs, asked);
  if (plan.fits()) return plan;
  if (request.context == 0 && plan.max_context > 0) {
    asked.context = plan.max_context;
    log_info("a context of {} tokens instead of {}: {} of device memory are free for caches beside {} of weights",
             grouped_digits(plan.max_context), grouped_digits(config.max_position_embeddings), size_text(available - plan.weights()),
             size_text(plan.weights()));
    return plan_memory(config, specs, asked);
  }
  log_plan(plan);
  fail("the model does not fit on the device: {} (weights {}, KV {}, workspace {})", fit_line(plan), size_text(plan.weights()),
       size_text(plan.kv()), size_text(plan.workspace));
}

}  // namespace dsv4
