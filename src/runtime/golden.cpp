#include "runtime/golden.h"

#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace dsv4 {
namespace {

// Typed reads of one golden file; tensors are copied because their bytes need not be aligned.
class GoldenReader {
 public:
  GoldenReader(const std::filesystem::path& path, const ModelConfig& config)
      : name_(path.filename().string()), file_(path), config_(config) {}

  bool has(const std::string& name) const { return file_.find(name) != nullptr; }

  // Every dimension of `shape` that is not −1 must agree.
  template <typename T>
  std::vector<T> read(const std::string& name, DType dtype, const Shape& shape, Shape* actual = nullptr) const {
    const TensorView* tensor = file_.find(name);
    require(tensor != nullptr, "{}: tensor {} is missing", name_, name);
    require(tensor->dtype == dtype, "{}: {}: dtype {}, expected {}", name_, name, dtype_name(tensor->dtype), dtype_name(dtype));
    bool fits = tensor->shape.size() == shape.size();
    for (size_t i = 0; fits && i < shape.size(); ++i) fits = shape[i] < 0 || shape[i] == tensor->shape[i];
    require(fits, "{}: {}: shape {}, expected {}", name_, name, shape_text(tensor->shape), shape_text(shape));
    std::vector<T> values(tensor->bytes / sizeof(T));
    if (!values.empty()) std::memcpy(values.data(), tensor->data, tensor->bytes);
    if (actual != nullptr) *actual = tensor->shape;
    return values;
  }

  std::vector<int32_t> token_ids(const std::string& name, int64_t count) const {
    std::vector<int32_t> ids = read<int32_t>(name, DType::kI32, {count});
    for (int32_t id : ids)
      require(id >= 0 && id < config_.vocab_size, "{}: {}: token id {}, expected 0 to {}", name_, name, id, config_.vocab_size - 1);
    return ids;
  }

  int scalar(const std::string& name, int64_t low, int64_t high) const {
    const int32_t value = read<int32_t>(name, DType::kI32, {1})[0];
    require(value >= low && value <= high, "{}: {}: {}, expected {} to {}", name_, name, value, low, high);
    return value;
  }

  GoldenLogits logits(const std::string& name, int num_rows) const {
    return {read<float>(name, DType::kF32, {num_rows, config_.vocab_size}), num_rows};
  }

  GoldenLayer layer(int layer_idx, int prefill_len) const {
    GoldenLayer layer;
    const std::string prefix = fmt::format("prefill.layer{}.", layer_idx);
    if (!has(prefix + "out")) return layer;
    layer.streams = read<Bf16>(prefix + "out", DType::kBf16, {prefill_len, config_.hc_mult, config_.hidden_size});
    if (config_.layer_kind(layer_idx) == LayerKind::kCsa && has(prefix + "topk")) {
      Shape shape;
      layer.topk = read<int32_t>(prefix + "topk", DType::kI32, {prefill_len, -1}, &shape);
      layer.topk_width = static_cast<int>(shape[1]);
      for (int32_t& entry : layer.topk) {
        if (entry < 0) continue;
        entry -= prefill_len;  // the file counts entries behind the window part
        require(entry >= 0 && entry < prefill_len, "{}: {}topk: entry {}, expected 0 to {}", name_, prefix, entry, prefill_len - 1);
      }
    }
    return layer;
  }

  GoldenRouter router(const std::vector<int>& num_experts) const {
    GoldenRouter router;
    router.layer_idx = scalar("router.layer", config_.num_hash_layers, config_.num_hidden_layers - 1);
    Shape shape;
    router.input = read<Bf16>("router.input", DType::kBf16, {-1, config_.hidden_size}, &shape);
    router.num_rows = static_cast<int>(shape[0]);
    router.bias = read<float>("router.bias", DType::kF32, {num_experts.at(static_cast<size_t>(router.layer_idx))});
    router.experts = read<int32_t>("router.experts", DType::kI32, {router.num_rows, config_.num_experts_per_tok});
    router.weights = read<float>("router.weights", DType::kF32, {router.num_rows, config_.num_experts_per_tok});
    return router;
  }

 private:
  std::string name_;
  SafetensorsFile file_;
  const ModelConfig& config_;
};

Variation::Part read_part(const nlohmann::json& json, const char* part) {
  const nlohmann::json& values = json.at(part);
  return {values.at("median").get<double>(), values.at("p10").get<double>(), values.at("argmax").get<double>()};
}

}  // namespace

Golden Golden::load(const std::filesystem::path& file, const ModelConfig& config, const std::vector<int>& num_experts) {
  const GoldenReader reader(file, config);
  Golden golden;
  golden.input_ids = reader.token_ids("input_ids", -1);
  const int num_ids = static_cast<int>(golden.input_ids.size());
  require(num_ids >= 1 && num_ids <= config.max_position_embeddings, "{}: input_ids: {} tokens, expected 1 to {}", file.filename().string(),
          num_ids, config.max_position_embeddings);
  golden.prefill_len = reader.scalar("prefill_len", 1, num_ids);
  golden.prefill_logits = reader.logits("prefill_logits", golden.prefill_len);
  if (num_ids > golden.prefill_len) golden.decode_logits = reader.logits("decode_logits", num_ids - golden.prefill_len);
  for (int layer_idx = 0; layer_idx < config.num_hidden_layers; ++layer_idx) {
    golden.layers.push_back(reader.layer(layer_idx, golden.prefill_len));
  }
  if (reader.has("mtp_logits")) {
    golden.mtp_next_ids = reader.token_ids("mtp_next_ids", golden.prefill_len);
    golden.mtp_logits = reader.logits("mtp_logits", golden.prefill_len);
  }
  if (reader.has("greedy_tokens")) golden.greedy = {reader.token_ids("greedy_prompt", -1), reader.token_ids("greedy_tokens", -1)};
  if (reader.has("router.layer")) golden.router = reader.router(num_experts);
  return golden;
}

std::optional<Variation> Variation::load(const std::filesystem::path& file) {
  std::error_code error;
  if (!std::filesystem::exists(file, error)) return std::nullopt;
  std::ifstream stream(file);
  const nlohmann::json json = nlohmann::json::parse(stream, nullptr, false);
  require(json.is_object(), "{}: not a JSON object", file.string());
  try {
    return Variation{read_part(json, "prefill"), read_part(json, "decode")};
  } catch (const nlohmann::json::exception& exception) {
    fail("{}: {}", file.string(), exception.what());
  }
}

}  // namespace dsv4
