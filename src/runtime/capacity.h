// Whether a model fits on a device, decided before anything is loaded.
#pragma once

#include <cstdint>
#include <span>

#include "model/checkpoint.h"
#include "model/memory_plan.h"

namespace dsv4 {

// The tensors of a checkpoint's model.
std::vector<TensorSpec> tensor_specs(const Checkpoint& checkpoint);

// Plans for one device with `free_bytes` of free memory, less what loading, graphs and the ends of allocations take; 0: unlimited. A
// request without a context (0) gets max_position_embeddings, or, where that does not fit, the longest that does; the log says so. Throws
// Error with what is needed and what would fit, after writing the plan to the log, where the plan does not fit.
MemoryPlan plan_device(const ModelConfig& config, std::span<const TensorSpec> specs, const MemoryRequest& request, int64_t free_bytes);

}  // namespace dsv4
