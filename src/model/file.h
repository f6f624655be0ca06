// Files of a model directory: mapped or read, with the system's reason in every error.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

namespace dsv4 {

// A regular file mapped read-only for as long as the object lives. A file that another program cuts short while it is mapped ends the
// process with SIGBUS, as with every mapping.
class MappedFile {
 public:
  MappedFile() = default;
  // Throws Error "PATH: reason" for what is not a readable regular file. An empty file gives empty bytes.
  explicit MappedFile(const std::filesystem::path& file);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

// The whole file as text. Throws Error "PATH: reason", also for more than `max_bytes`.
std::string read_text_file(const std::filesystem::path& file, size_t max_bytes);

}  // namespace dsv4
