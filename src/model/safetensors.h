// Reader of one safetensors file: 8 bytes of header length (little endian), a JSON header, the tensors' bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/tensor.h"
#include "model/file.h"

namespace dsv4 {

inline constexpr uint64_t kMaxSafetensorsHeader = 100'000'000;  // bytes, the format's own limit
inline constexpr size_t kMaxTensorRank = 8;
inline constexpr size_t kMaxTensorName = 1024;  // bytes

// One tensor of a file. `view.data` may be misaligned for the dtype: the format does not promise alignment.
struct SafetensorsEntry {
  std::string name;
  TensorView view;
};

// Checks a whole file in memory and lists its tensors in the order of their bytes; views point into `file`. Tensors must cover the data
// section exactly: no overlap, no hole, nothing behind the last. Throws Error whose line begins with `where`.
std::vector<SafetensorsEntry> parse_safetensors(std::span<const std::byte> file, std::string_view where);

// A file mapped read-only, and its tensors.
class SafetensorsFile {
 public:
  // Maps and checks a file; messages name it by its last path component, system errors by the whole path. Throws Error.
  explicit SafetensorsFile(const std::filesystem::path& file);

  const std::vector<SafetensorsEntry>& tensors() const { return tensors_; }
  // The tensor of that name, nullptr if there is none.
  const TensorView* find(std::string_view name) const;
  size_t size() const { return file_.bytes().size(); }

 private:
  MappedFile file_;
  std::vector<SafetensorsEntry> tensors_;
};

}  // namespace dsv4
