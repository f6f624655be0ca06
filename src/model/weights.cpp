#include "model/weights.h"

#include <fmt/format.h>

#include <string>

#include "model/weight_source.h"

namespace dsv4 {
namespace {

// Puts blocks together from the tensors below a name prefix ("layers.3.").
class BlockBuilder {
 public:
  BlockBuilder(const ModelConfig& config, WeightSource& source, Backend& backend, std::vector<Buffer>& tables)
      : config_(config), source_(source), backend_(backend), tables_(tables) {}

  template <typename T>
  const T* array(const std::string& name) const {
    return static_cast<const T*>(source_.array(name));
  }

  HyperConnectionWeights hyper_connection(const std::string& prefix) const {
    return {array<float>(prefix + "_fn"), array<float>(prefix + "_base"), array<float>(prefix + "_scale")};
  }

  LayerWeights layer(const std::string& prefix, int layer_idx, int num_experts) const {
    LayerWeights weights;
    weights.hc_attn = hyper_connection(prefix + "hc_attn");
    weights.hc_ffn = hyper_connection(prefix + "hc_ffn");
    weights.attn_norm = array<Bf16>(prefix + "attn_norm.weight");
    weights.ffn_norm = array<Bf16>(prefix + "ffn_norm.weight");
    weights.attn = attention(prefix + "attn.", config_.ratio(layer_idx));
    weights.moe = moe(prefix + "ffn.", num_experts, config_.is_hash_layer(layer_idx));
    return weights;
  }

 private:
  CompressorWeights compressor(const std::string& prefix) const {
    return {source_.bf16(prefix + "wkv"), source_.bf16(prefix + "wgate"), array<float>(prefix + "ape"),
            array<Bf16>(prefix + "norm.weight")};
  }

  AttentionWeights attention(const std::string& prefix, int ratio) const {
    AttentionWeights weights;
    weights.wq_a = source_.fp8(prefix + "wq_a");
    weights.wq_b = source_.fp8(prefix + "wq_b");
    weights.wkv = source_.fp8(prefix + "wkv");
    weights.wo_a = source_.fp8(prefix + "wo_a");
    weights.wo_b = source_.fp8(prefix + "wo_b");
    weights.q_norm = array<Bf16>(prefix + "q_norm.weight");
    weights.kv_norm = array<Bf16>(prefix + "kv_norm.weight");
    weights.sink = array<float>(prefix + "attn_sink");
    if (ratio != 0) weights.compressor = compressor(prefix + "compressor.");
    if (ratio == kCsaRatio) {
      weights.indexer.wq_b = source_.fp8(prefix + "indexer.wq_b");
      weights.indexer.weights_proj = source_.bf16(prefix + "indexer.weights_proj");
      weights.indexer.compressor = compressor(prefix + "indexer.compressor.");
    }
    return weights;
  }

  MoeWeights moe(const std::string& prefix, int num_experts, bool hash) const {
    const int hidden = config_.hidden_size;
    const int inner = config_.moe_intermediate_size;
    MoeWeights weights;
    weights.gate = source_.gate(prefix + "gate");
    if (hash) {
      weights.tid2eid = array<int64_t>(prefix + "gate.tid2eid");
    } else {
      weights.bias = array<float>(prefix + "gate.bias");
    }
    weights.num_experts = num_experts;
    weights.format = config_.expert_dtype;
    weights.w1 = experts(prefix, "w1", num_experts, inner, hidden);
    weights.w2 = experts(prefix, "w2", num_experts, hidden, inner);
    weights.w3 = experts(prefix, "w3", num_experts, inner, hidden);
    weights.shared_w1 = source_.fp8(prefix + "shared_experts.w1");
    weights.shared_w2 = source_.fp8(prefix + "shared_experts.w2");
    weights.shared_w3 = source_.fp8(prefix + "shared_experts.w3");
    return weights;
  }

  // The table of one matrix of all experts of a layer, placed in the backend's memory.
  const ExpertMatrix* experts(const std::string& prefix, const char* matrix, int num_experts, int rows, int cols) const {
    std::vector<ExpertMatrix> table;
    for (int expert_idx = 0; expert_idx < num_experts; ++expert_idx) {
      table.push_back(source_.expert(fmt::format("{}experts.{}.{}", prefix, expert_idx, matrix), config_.expert_dtype, rows, cols));
    }
    const Buffer& placed = tables_.emplace_back(backend_, table.size() * sizeof(ExpertMatrix));
    backend_.copy_from_host(placed.as<void>(), table.data(), placed.bytes());
    return placed.as<ExpertMatrix>();
  }

  const ModelConfig& config_;
  WeightSource& source_;
  Backend& backend_;
  std::vector<Buffer>& tables_;
};

// The tensors of an opened checkpoint. Names, dtypes and shapes were checked when it was opened.
class CheckpointSource final : public WeightSource {
 public:
  CheckpointSource(const Checkpoint& checkpoint, Backend& backend) : checkpoint_(checkpoint), backend_(backend) {}

  const void* array(const std::string& name) override {
    const TensorView& tensor = checkpoint_.tensor(name);
    return backend_.import_weight(tensor.data, tensor.bytes);
  }
  Bf16Weight gate(const std::string& name) override {
    const TensorView& tensor = checkpoint_.tensor(name + ".weight");
    return {static_cast<const Bf16*>(backend_.import_weight(tensor.data, tensor.bytes)), rows(tensor), cols(tensor)};
  }
  Bf16Weight bf16(const std::string& name) override {
    const TensorView& tensor = checkpoint_.tensor(name + ".weight");
    return backend_.import_bf16({tensor.as<Bf16>(), rows(tensor), cols(tensor)});
  }
  Fp8Weight fp8(const std::string& name) override { return backend_.import_fp8(mapped_fp8(name)); }
  ExpertMatrix expert(const std::string& name, ExpertFormat format, int num_rows, int num_cols) override {
    const ExpertMatrix mapped = {checkpoint_.tensor(name + ".weight").as<uint8_t>(), checkpoint_.tensor(name + ".scale").as<uint8_t>()};
    return backend_.import_expert(mapped, format, num_rows, num_cols);
  }

 private:
  static int rows(const TensorView& tensor) { return static_cast<int>(tensor.shape.at(0)); }
  static int cols(const TensorView& tensor) { return static_cast<int>(tensor.shape.at(1)); }

  Fp8Weight mapped_fp8(const std::string& name) const {
    const TensorView& tensor = checkpoint_.tensor(name + ".weight");
    return {tensor.as<uint8_t>(), checkpoint_.tensor(name + ".scale").as<uint8_t>(), rows(tensor), cols(tensor)};
  }

  const Checkpoint& checkpoint_;
  Backend& backend_;
};

// Imports read the checkpoint until they are finished: ends them when loading fails, before the checkpoint may go.
class ImportGuard {
 public:
  explicit ImportGuard(Backend& backend) : backend_(backend) {}
  ImportGuard(const ImportGuard&) = delete;
  ImportGuard& operator=(const ImportGuard&) = delete;
  ~ImportGuard() {
    backend_.set_import_progress({});
    if (!finished_) backend_.cancel_imports();
  }
  void finish() {
    backend_.finish_imports();
    finished_ = true;
  }

 private:
  Backend& backend_;
  bool finished_ = false;
};

}  // namespace

ModelWeights build_weights(const ModelConfig& config, std::span<const int> num_experts, bool with_mtp, WeightSource& source,
                           Backend& backend) {
  ModelWeights weights;
  const BlockBuilder builder(config, source, backend, weights.tables);
  weights.embed = builder.array<Bf16>("embed.weight");
  weights.head = {builder.hyper_connection("hc_head"), builder.array<Bf16>("norm.weight"), source.bf16("head")};
  for (int layer_idx = 0; layer_idx < config.num_hidden_layers; ++layer_idx) {
    weights.layers.push_back(builder.layer(fmt::format("layers.{}.", layer_idx), layer_idx, num_experts[static_cast<size_t>(layer_idx)]));
  }
  if (with_mtp) {
    auto mtp = std::make_unique<MtpWeights>();
    mtp->e_proj = source.fp8("mtp.0.e_proj");
    mtp->h_proj = source.fp8("mtp.0.h_proj");
    mtp->enorm = builder.array<Bf16>("mtp.0.enorm.weight");
    mtp->hnorm = builder.array<Bf16>("mtp.0.hnorm.weight");
    mtp->layer = builder.layer("mtp.0.", config.num_hidden_layers, num_experts[static_cast<size_t>(config.num_hidden_layers)]);
    mtp->head = {builder.hyper_connection("mtp.0.hc_head"), builder.array<Bf16>("mtp.0.norm.weight"), weights.head.head};
    weights.mtp = std::move(mtp);
  }
  return weights;
}

ModelWeights load_weights(const Checkpoint& checkpoint, Backend& backend, const LoadProgress& progress) {
  CheckpointSource source(checkpoint, backend);
  ImportGuard guard(backend);
  const int64_t total = checkpoint.tensor_bytes();
  bool was_told = false;
  if (progress) {
    backend.set_import_progress([&](int64_t bytes_done) {
      was_told = true;
      progress(bytes_done, total);
    });
  }
  ModelWeights weights = build_weights(checkpoint.config(), checkpoint.num_experts(), checkpoint.has_mtp(), source, backend);
  guard.finish();
  if (was_told) progress(total, total);  // tensors that no block uses were not brought
  return weights;
}

}  // namespace dsv4
