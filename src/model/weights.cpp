#include "model/weights.h"

#include <fmt/format.h>

#include <string>

#include "base/error.h"

namespace dsv4 {
namespace {

// Reads tensors below a name prefix ("layers.3.") into the backend. Names, dtypes and shapes were checked when the checkpoint was opened.
class WeightReader {
 public:
  WeightReader(const Checkpoint& checkpoint, Backend& backend, std::vector<Buffer>& tables)
      : checkpoint_(checkpoint), backend_(backend), tables_(tables) {}

  template <typename T>
  const T* array(const std::string& name) const {
    const TensorView& tensor = checkpoint_.tensor(name);
    return static_cast<const T*>(backend_.import_weight(tensor.data, tensor.bytes));
  }

  Bf16Weight bf16(const std::string& name) const {
    const TensorView& tensor = checkpoint_.tensor(name + ".weight");
    return {static_cast<const Bf16*>(backend_.import_weight(tensor.data, tensor.bytes)), rows(tensor), cols(tensor)};
  }

  Fp8Weight fp8(const std::string& name) const {
    const TensorView& tensor = checkpoint_.tensor(name + ".weight");
    return {static_cast<const uint8_t*>(backend_.import_weight(tensor.data, tensor.bytes)), array<uint8_t>(name + ".scale"), rows(tensor),
            cols(tensor)};
  }

  HyperConnectionWeights hyper_connection(const std::string& prefix) const {
    return {array<float>(prefix + "_fn"), array<float>(prefix + "_base"), array<float>(prefix + "_scale")};
  }

  CompressorWeights compressor(const std::string& prefix) const {
    return {bf16(prefix + "wkv"), bf16(prefix + "wgate"), array<float>(prefix + "ape"), array<Bf16>(prefix + "norm.weight")};
  }

  AttentionWeights attention(const std::string& prefix, int ratio) const {
    AttentionWeights weights;
    weights.wq_a = fp8(prefix + "wq_a");
    weights.wq_b = fp8(prefix + "wq_b");
    weights.wkv = fp8(prefix + "wkv");
    weights.wo_a = fp8(prefix + "wo_a");
    weights.wo_b = fp8(prefix + "wo_b");
    weights.q_norm = array<Bf16>(prefix + "q_norm.weight");
    weights.kv_norm = array<Bf16>(prefix + "kv_norm.weight");
    weights.sink = array<float>(prefix + "attn_sink");
    if (ratio != 0) weights.compressor = compressor(prefix + "compressor.");
    if (ratio == 4) {
      weights.indexer.wq_b = fp8(prefix + "indexer.wq_b");
      weights.indexer.weights_proj = bf16(prefix + "indexer.weights_proj");
      weights.indexer.compressor = compressor(prefix + "indexer.compressor.");
    }
    return weights;
  }

  MoeWeights moe(const std::string& prefix, int num_experts, bool hash) const {
    MoeWeights weights;
    weights.gate = bf16(prefix + "gate");
    if (hash) {
      weights.tid2eid = array<int64_t>(prefix + "gate.tid2eid");
    } else {
      weights.bias = array<float>(prefix + "gate.bias");
    }
    weights.num_experts = num_experts;
    weights.format = checkpoint_.config().expert_dtype;
    weights.w1 = experts(prefix, "w1", num_experts);
    weights.w2 = experts(prefix, "w2", num_experts);
    weights.w3 = experts(prefix, "w3", num_experts);
    weights.shared_w1 = fp8(prefix + "shared_experts.w1");
    weights.shared_w2 = fp8(prefix + "shared_experts.w2");
    weights.shared_w3 = fp8(prefix + "shared_experts.w3");
    return weights;
  }

  LayerWeights layer(const std::string& prefix, int layer_idx) const {
    const ModelConfig& config = checkpoint_.config();
    LayerWeights weights;
    weights.hc_attn = hyper_connection(prefix + "hc_attn");
    weights.hc_ffn = hyper_connection(prefix + "hc_ffn");
    weights.attn_norm = array<Bf16>(prefix + "attn_norm.weight");
    weights.ffn_norm = array<Bf16>(prefix + "ffn_norm.weight");
    weights.attn = attention(prefix + "attn.", config.ratio(layer_idx));
    weights.moe = moe(prefix + "ffn.", checkpoint_.num_experts(layer_idx), config.is_hash_layer(layer_idx));
    return weights;
  }

 private:
  static int rows(const TensorView& tensor) { return static_cast<int>(tensor.shape.at(0)); }
  static int cols(const TensorView& tensor) { return static_cast<int>(tensor.shape.at(1)); }

  // The table of one matrix of all experts of a layer, placed in the backend's memory.
  const ExpertMatrix* experts(const std::string& prefix, const char* matrix, int num_experts) const {
    std::vector<ExpertMatrix> table(static_cast<size_t>(num_experts));
    for (int expert_idx = 0; expert_idx < num_experts; ++expert_idx) {
      const std::string name = fmt::format("{}experts.{}.{}", prefix, expert_idx, matrix);
      table[static_cast<size_t>(expert_idx)] = {array<uint8_t>(name + ".weight"), array<uint8_t>(name + ".scale")};
    }
    const Buffer& placed = tables_.emplace_back(backend_, table.size() * sizeof(ExpertMatrix));
    backend_.copy_from_host(placed.as<void>(), table.data(), placed.bytes());
    return placed.as<ExpertMatrix>();
  }

  const Checkpoint& checkpoint_;
  Backend& backend_;
  std::vector<Buffer>& tables_;
};

}  // namespace

ModelWeights load_weights(const Checkpoint& checkpoint, Backend& backend) {
  const ModelConfig& config = checkpoint.config();
  ModelWeights weights;
  const WeightReader reader(checkpoint, backend, weights.tables);
  weights.embed = reader.array<Bf16>("embed.weight");
  weights.head = {reader.hyper_connection("hc_head"), reader.array<Bf16>("norm.weight"), reader.bf16("head")};
  for (int layer_idx = 0; layer_idx < config.num_hidden_layers; ++layer_idx) {
    weights.layers.push_back(reader.layer(fmt::format("layers.{}.", layer_idx), layer_idx));
  }
  if (checkpoint.has_mtp()) {
    auto mtp = std::make_unique<MtpWeights>();
    mtp->e_proj = reader.fp8("mtp.0.e_proj");
    mtp->h_proj = reader.fp8("mtp.0.h_proj");
    mtp->enorm = reader.array<Bf16>("mtp.0.enorm.weight");
    mtp->hnorm = reader.array<Bf16>("mtp.0.hnorm.weight");
    mtp->layer = reader.layer("mtp.0.", config.num_hidden_layers);
    mtp->head = {reader.hyper_connection("mtp.0.hc_head"), reader.array<Bf16>("mtp.0.norm.weight"), weights.head.head};
    weights.mtp = std::move(mtp);
  }
  return weights;
}

}  // namespace dsv4
