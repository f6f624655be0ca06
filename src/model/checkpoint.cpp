#include "model/checkpoint.h"

#include <algorithm>
#include <cstring>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/printable.h"
#include "model/model_files.h"
#include "model/tensor_specs.h"
#include "model/value_check.h"

namespace dsv4 {
namespace {

constexpr size_t kSmallTensorBytes = size_t{16} << 20;
constexpr size_t kNamesInMessage = 4;

// The first few of a list of names, and "…" for the rest.
std::string name_list(const std::vector<std::string_view>& names) {
  std::string text;
  for (size_t i = 0; i < names.size() && i < kNamesInMessage; ++i) text += (i == 0 ? "" : ", ") + printable(names[i]);
  return names.size() > kNamesInMessage ? text + ", …" : text;
}

std::string count_text(size_t count) {
  return fmt::format("{} tensor{}", count, count == 1 ? "" : "s");
}

bool is_mtp_name(std::string_view name) {
  return name.starts_with("mtp.");
}

// Copies of the main tables that some files carry in their MTP blocks (spec 5.1).
bool is_mtp_copy(std::string_view name) {
  return is_mtp_name(name) && (name.find("emb") != std::string_view::npos || name.ends_with("head.weight"));
}

bool reads_values(ValueCheck check, const TensorView& tensor) {
  if (check != ValueCheck::kStandard) return check == ValueCheck::kAll;
  return tensor.dtype == DType::kF8E8M0 || tensor.dtype == DType::kF32 || tensor.dtype == DType::kI64 || tensor.bytes <= kSmallTensorBytes;
}

void check_form(const TensorSpec& spec, const TensorView& tensor, const ModelConfig& config) {
  const bool routed = spec.category == TensorCategory::kRoutedExperts;
  const char* hint = !routed                                     ? ""
                     : config.expert_dtype == ExpertFormat::kFp4 ? " (config.json: expert_dtype is fp4)"
                                                                 : " (config.json: expert_dtype is not fp4)";
  require(tensor.dtype == spec.dtype, "{}: dtype {}, expected {}{}", spec.name, dtype_name(tensor.dtype), dtype_name(spec.dtype), hint);
  require(tensor.shape == spec.shape, "{}: shape {}, expected {}", spec.name, shape_text(tensor.shape), shape_text(spec.shape));
}

}  // namespace

Checkpoint Checkpoint::open(const std::filesystem::path& directory, ValueCheck check) {
  std::error_code error;
  const auto status = std::filesystem::status(directory, error);
  if (error && status.type() != std::filesystem::file_type::not_found) fail("{}: {}", directory.string(), error.message());
  require(std::filesystem::exists(status), "{}: no such directory", directory.string());
  require(std::filesystem::is_directory(status), "{}: not a directory, expected one with config.json and safetensors files",
          directory.string());
  Checkpoint checkpoint;
  checkpoint.config_ = load_config(directory / "config.json");
  ModelFiles model = open_model_files(directory);
  checkpoint.files_ = std::move(model.files);
  checkpoint.messages_ = std::move(model.messages);
  checkpoint.assemble(std::move(model.tensors), check);
  return checkpoint;
}

Checkpoint Checkpoint::from_memory(std::string_view config_text, std::span<const std::byte> safetensors, ValueCheck check) {
  Checkpoint checkpoint;
  checkpoint.config_ = parse_config(config_text);
  checkpoint.assemble(parse_safetensors(safetensors, "model.safetensors"), check);
  return checkpoint;
}

void Checkpoint::assemble(std::vector<SafetensorsEntry> sources, ValueCheck check) {
  std::map<std::string, std::string> file_names;  // by official name
  for (SafetensorsEntry& source : sources) {
    const std::string name = official_name(source.name);
    const auto [found, added] = file_names.emplace(name, source.name);
    require(added, "{}: the files have it twice, as {} and as {}", printable(name), printable(found->second), printable(source.name));
    tensors_.emplace(name, std::move(source.view));
  }
  drop_unused_mtp();
  read_expert_counts();
  check_tensors(check);
}

// Removes copies of the main tables and the later revision's draft head, and decides whether there are MTP blocks.
void Checkpoint::drop_unused_mtp() {
  constexpr std::string_view kDraftHead = "mtp.0.main_proj.";
  const auto draft = tensors_.lower_bound(kDraftHead);
  has_draft_head_ = draft != tensors_.end() && draft->first.starts_with(kDraftHead);
  const bool drop_all = has_draft_head_;
  std::erase_if(tensors_, [drop_all](const auto& tensor) { return is_mtp_copy(tensor.first) || (drop_all && is_mtp_name(tensor.first)); });
  const bool any = std::any_of(tensors_.begin(), tensors_.end(), [](const auto& tensor) { return is_mtp_name(tensor.first); });
  has_mtp_ = any && config_.num_nextn_predict_layers > 0;
  if (has_draft_head_) {
    messages_.push_back("mtp.*: the draft head of a later revision (mtp.0.main_proj); it is not used");
  } else if (config_.num_nextn_predict_layers > 0 && !has_mtp_) {
    messages_.push_back(fmt::format("no mtp.* tensors, although num_nextn_predict_layers is {}: the model has no MTP block",
                                    config_.num_nextn_predict_layers));
  }
}

// The rows of a gate are its layer's experts, whatever config.json says: pruned models exist. Where a gate is missing the configuration's
// number stands in, and check_tensors reports the gate.
void Checkpoint::read_expert_counts() {
  const int num_blocks = has_mtp_ ? config_.num_blocks() : config_.num_hidden_layers;
  int64_t total = 0;
  for (int layer = 0; layer < num_blocks; ++layer) {
    int64_t count = config_.n_routed_experts;
    const std::string name = block_prefix(config_, layer) + "ffn.gate.weight";
    if (const TensorView* gate = find(name); gate && gate->shape.size() == 2) {
      count = gate->shape[0];
      require(count >= config_.num_experts_per_tok && count <= kMaxRoutedExperts, "{}: shape {}: {} experts, expected {} to {}", name,
              shape_text(gate->shape), count, config_.num_experts_per_tok, kMaxRoutedExperts);
    }
    total += count;
    require(total <= kMaxExpertsInAll, "{}: more than {} routed experts in all layers", name, kMaxExpertsInAll);
    num_experts_.push_back(static_cast<int>(count));
  }
  const auto [low, high] = std::minmax_element(num_experts_.begin(), num_experts_.end());
  if (*low != config_.n_routed_experts || *high != config_.n_routed_experts) {
    messages_.push_back(*low == *high
                            ? fmt::format("{} routed experts per layer, config.json says {}", *low, config_.n_routed_experts)
                            : fmt::format("{} to {} routed experts per layer, config.json says {}", *low, *high, config_.n_routed_experts));
  }
}

void Checkpoint::check_tensors(ValueCheck check) {
  const std::vector<TensorSpec> specs = tensor_specs(config_, has_mtp_, num_experts_);
  std::set<std::string_view> expected;
  std::vector<std::string_view> missing;
  for (const TensorSpec& spec : specs) {
    expected.insert(spec.name);
    const TensorView* tensor = find(spec.name);
    if (tensor) {
      check_form(spec, *tensor, config_);
    } else {
      missing.push_back(spec.name);
    }
  }
  if (!missing.empty()) {
    const bool transformers = find("embed_tokens.weight") || find("lm_head.weight");
    fail("{} missing: {}{}", count_text(missing.size()), name_list(missing),
         transformers ? "; the names are those of Transformers, expected the official ones" : "");
  }
  set_extra_tensors_aside(expected);
  for (const TensorSpec& spec : specs) {
    TensorView& tensor = tensors_.find(spec.name)->second;
    align(tensor);
    if (reads_values(check, tensor)) check_values(spec.name, tensor, spec.layer < 0 ? 0 : num_experts(spec.layer));
  }
}

// Tensors that the model does not use are named in a message. A compressor or indexer where the configuration has none is an error: the
// model would compute something else than it was made for.
void Checkpoint::set_extra_tensors_aside(const std::set<std::string_view>& expected) {
  std::vector<std::string_view> extra;
  for (const auto& [name, tensor] : tensors_) {
    if (!expected.contains(name)) extra.push_back(name);
  }
  if (extra.empty()) return;
  for (int layer = 0; layer < config_.num_hidden_layers; ++layer) {
    const std::string attn = block_prefix(config_, layer) + "attn.";
    for (const std::string& part : {attn + "compressor.", attn + "indexer."}) {
      const auto found = std::lower_bound(extra.begin(), extra.end(), part);
      require(found == extra.end() || !found->starts_with(part), "{}: in the files, but config.json: compress_ratios[{}] is {}",
              found == extra.end() ? "" : printable(*found), layer, config_.ratio(layer));
    }
  }
  messages_.push_back(fmt::format("{} unknown and ignored: {}", count_text(extra.size()), name_list(extra)));
  std::erase_if(tensors_, [&expected](const auto& tensor) { return !expected.contains(tensor.first); });
}

// Moves a tensor that lies misaligned in its file to memory of its own.
void Checkpoint::align(TensorView& view) {
  const size_t alignment = dtype_bytes(view.dtype);
  if (reinterpret_cast<uintptr_t>(view.data) % alignment == 0) return;
  const size_t units = (view.bytes + sizeof(std::max_align_t) - 1) / sizeof(std::max_align_t);
  auto& copy = aligned_.emplace_back(std::make_unique_for_overwrite<std::max_align_t[]>(units));
  std::memcpy(copy.get(), view.data, view.bytes);
  view.data = copy.get();
}

const TensorView* Checkpoint::find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

const TensorView& Checkpoint::tensor(std::string_view name) const {
  const TensorView* found = find(name);
  require(found != nullptr, "{}: the checkpoint has no such tensor", printable(name));
  return *found;
}

int64_t Checkpoint::tensor_bytes() const {
  int64_t bytes = 0;
  for (const auto& [name, tensor] : tensors_) bytes += static_cast<int64_t>(tensor.bytes);
  return bytes;
}

}  // namespace dsv4
