// A model directory in the official format (spec section 5): config.json and safetensors, opened, mapped and checked before anything uses
// them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/tensor.h"
#include "model/config.h"
#include "model/safetensors.h"

namespace dsv4 {

// How much of the tensors' contents is read when a checkpoint is opened. Names, dtypes and shapes are always checked.
enum class ValueCheck : uint8_t {
  kNone,      // headers alone
  kStandard,  // every scale, F32 and I64 tensor, and every other tensor of at most 16 MiB
  kAll,       // every tensor
};

// The bytes stay mapped as long as the object lives; views point into them. Moving keeps views valid.
class Checkpoint {
 public:
  // Opens `directory`: config.json, then model.safetensors, or model.safetensors.index.json and its shards. Legacy spellings are mapped to
  // the official names. Every tensor of spec 5.1 must be there with its dtype and shape; expert counts come from the gates. NaN scales,
  // non-finite values and expert ids out of range are refused. Throws Error with one line.
  static Checkpoint open(const std::filesystem::path& directory, ValueCheck check = ValueCheck::kStandard);

  // The same for the texts of a config.json and of one safetensors file in memory; `safetensors` must outlive the result.
  static Checkpoint from_memory(std::string_view config_text, std::span<const std::byte> safetensors,
                                ValueCheck check = ValueCheck::kStandard);

  Checkpoint(Checkpoint&&) noexcept = default;
  Checkpoint& operator=(Checkpoint&&) noexcept = default;

  const ModelConfig& config() const { return config_; }

  // A tensor by its official name, e.g. "layers.3.attn.wq_b.scale"; data is aligned for its dtype. Throws Error if the model has none.
  const TensorView& tensor(std::string_view name) const;
  // The same, nullptr if there is none.
  const TensorView* find(std::string_view name) const;
  // Every tensor of the model, by official name; ignored ones are not among them.
  const std::map<std::string, TensorView, std::less<>>& tensors() const { return tensors_; }

  // True if the MTP blocks of the configuration are in the files.
  bool has_mtp() const { return has_mtp_; }
  // True if the files carry the draft head of the later revision (spec appendix B) instead; it is skipped.
  bool has_draft_head() const { return has_draft_head_; }
  // Routed experts of a layer, from its gate; MTP blocks follow the main layers and have entries only if has_mtp().
  int num_experts(int layer) const { return num_experts_.at(static_cast<size_t>(layer)); }
  const std::vector<int>& num_experts() const { return num_experts_; }

  // What a user should know but need not act on: tensors that were ignored, a missing MTP block, a pruned model.
  const std::vector<std::string>& messages() const { return messages_; }

  // Bytes of the tensors the model uses.
  int64_t tensor_bytes() const;

 private:
  Checkpoint() = default;
  // Takes the tensors as the files name them, and checks all there is to check.
  void assemble(std::vector<SafetensorsEntry> sources, ValueCheck check);
  void drop_unused_mtp();
  void read_expert_counts();
  void check_tensors(ValueCheck check);
  void set_extra_tensors_aside(const std::set<std::string_view>& expected);
  void align(TensorView& view);

  ModelConfig config_;
  std::vector<SafetensorsFile> files_;
  std::vector<std::unique_ptr<std::max_align_t[]>> aligned_;  // copies of tensors that lie misaligned in their file
  std::map<std::string, TensorView, std::less<>> tensors_;
  std::vector<int> num_experts_;
  std::vector<std::string> messages_;
  bool has_mtp_ = false;
  bool has_draft_head_ = false;
};

}  // namespace dsv4
