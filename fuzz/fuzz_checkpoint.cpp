// Checkpoints from nowhere: the input is the text of a config.json, a zero byte, and the bytes of a safetensors file. Whatever they hold,
// opening them must end with a checkpoint or with one line of error.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string_view>

#include "base/error.h"
#include "model/checkpoint.h"
#include "model/memory_plan.h"
#include "model/safetensors.h"
#include "model/tensor_specs.h"

namespace {

// Larger models only take longer.
constexpr int kMaxExperts = 2048;
constexpr size_t kMaxLine = 4096;

template <typename Action>
void try_to(Action&& action) {
  try {
    action();
  } catch (const dsv4::Error& error) {
    const std::string_view line = error.what();
    if (line.empty() || line.size() > kMaxLine || line.find('\n') != std::string_view::npos) std::abort();
  }
}

void open_checkpoint(std::string_view config_text, std::span<const std::byte> file) {
  const dsv4::ModelConfig config = dsv4::parse_config(config_text);
  if (config.num_blocks() * config.n_routed_experts > kMaxExperts) return;
  const auto specs = dsv4::tensor_specs(config, true);
  dsv4::plan_memory(config, specs, {.num_seqs = 16384, .max_step_tokens = 65536, .max_logits_rows = 65536});
  const dsv4::Checkpoint checkpoint = dsv4::Checkpoint::from_memory(config_text, file, dsv4::ValueCheck::kAll);
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    if (reinterpret_cast<uintptr_t>(tensor.data) % dsv4::dtype_bytes(tensor.dtype) != 0) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const void* const zero = size == 0 ? nullptr : std::memchr(data, 0, size);
  const size_t config_size = zero ? static_cast<size_t>(static_cast<const uint8_t*>(zero) - data) : size;
  const std::string_view config_text(reinterpret_cast<const char*>(data), config_size);
  const auto file = std::as_bytes(std::span(data, size)).subspan(zero ? config_size + 1 : size);
  try_to([&] { dsv4::parse_safetensors(file, "model.safetensors"); });
  try_to([&] { open_checkpoint(config_text, file); });
  return 0;
}
