#include "model/dummy_weights.h"

#include <algorithm>
#include <map>
#include <random>
#include <string>

#include "base/error.h"
#include "model/tensor_specs.h"
#include "model/weight_source.h"

namespace dsv4 {
namespace {

constexpr float kHyperConnectionRange = 0.02f;  // of fn, whose inputs have a mean square of 1
constexpr float kSmall = 0.1f;                  // range of biases and of other small fp32 values

class RandomSource final : public WeightSource {
 public:
  RandomSource(const ModelConfig& config, Backend& backend, std::vector<Buffer>& arrays, uint64_t seed)
      : config_(config), backend_(backend), arrays_(arrays), seed_(seed), random_(seed) {
    for (TensorSpec& spec : tensor_specs(config, false)) {
      std::string name = spec.name;
      specs_.emplace(std::move(name), std::move(spec));
    }
  }

  const void* array(const std::string& name) override {
    const TensorSpec& spec = find(name);
    if (name == "embed.weight") return table(spec, 1.0).data;
    if (spec.dtype == DType::kBf16) return keep(std::vector<Bf16>(count(spec), to_bf16(1.0f)));  // norms
    if (spec.dtype == DType::kI64) return keep(random_experts(count(spec)));
    std::vector<float> values(count(spec));
    const float range = name.ends_with("_fn") ? kHyperConnectionRange : kSmall;
    std::uniform_real_distribution<float> uniform(-range, range);
    for (float& value : values) value = uniform(random_);
    return keep(values);
  }
  Bf16Weight gate(const std::string& name) override {
    const TensorSpec& spec = find(name + ".weight");
    return table(spec, 1.0 / std::sqrt(static_cast<double>(spec.shape[1])));
  }
  Bf16Weight bf16(const std::string& name) override {
    const TensorSpec& spec = find(name + ".weight");
    return backend_.random_bf16(rows(spec), cols(spec), seed_++);
  }
  Fp8Weight fp8(const std::string& name) override {
    const TensorSpec& spec = find(name + ".weight");
    return backend_.random_fp8(rows(spec), cols(spec), seed_++);
  }
  ExpertMatrix expert(const std::string&, ExpertFormat format, int num_rows, int num_cols) override {
    return backend_.random_expert(format, num_rows, num_cols, seed_++);
  }

 private:
  static int rows(const TensorSpec& spec) { return static_cast<int>(spec.shape.at(0)); }
  static int cols(const TensorSpec& spec) { return static_cast<int>(spec.shape.at(1)); }
  static size_t count(const TensorSpec& spec) { return static_cast<size_t>(spec.num_elements()); }

  const TensorSpec& find(const std::string& name) const {
    const auto found = specs_.find(name);
    require(found != specs_.end(), "{}: the configuration has no such tensor", name);
    return found->second;
  }

  Bf16Weight table(const TensorSpec& spec, double deviation) {
    return {backend_.random_table(rows(spec), cols(spec), deviation, seed_++), rows(spec), cols(spec)};
  }

  // Rows of different experts, as a checkpoint's hash layers have them: consecutive ones from a random start.
  std::vector<int64_t> random_experts(size_t num_entries) {
    const auto per_token = static_cast<size_t>(config_.num_experts_per_tok);
    std::uniform_int_distribution<int64_t> any_expert(0, config_.n_routed_experts - 1);
    std::vector<int64_t> table(num_entries);
    for (size_t begin = 0; begin < num_entries; begin += per_token) {
      const int64_t first = any_expert(random_);
      for (size_t i = 0; i < per_token; ++i) table[begin + i] = (first + static_cast<int64_t>(i)) % config_.n_routed_experts;
    }
    return table;
  }

  template <typename T>
  const void* keep(const std::vector<T>& values) {
    const Buffer& kept = arrays_.emplace_back(backend_, values.size() * sizeof(T));
    backend_.copy_from_host(kept.as<void>(), values.data(), kept.bytes());
    return kept.as<void>();
  }

  const ModelConfig& config_;
  Backend& backend_;
  std::vector<Buffer>& arrays_;
  uint64_t seed_;
  std::mt19937_64 random_;
  std::map<std::string, TensorSpec, std::less<>> specs_;
};

}  // namespace

ModelWeights dummy_weights(const ModelConfig& config, Backend& backend, uint64_t seed) {
  std::vector<Buffer> arrays;
  RandomSource source(config, backend, arrays, seed);
  const std::vector<int> num_experts(static_cast<size_t>(config.num_hidden_layers), config.n_routed_experts);
  ModelWeights weights = build_weights(config, num_experts, false, source, backend);
  for (Buffer& array : arrays) weights.tables.push_back(std::move(array));
  backend.synchronize();
  return weights;
}

}  // namespace dsv4
