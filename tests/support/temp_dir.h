// A directory for one test, and writing files into it.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>

namespace dsv4::test {

// An empty directory that goes away with the object, contents and all.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(std::string_view name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

// Replaces the file's contents; throws std::runtime_error when it cannot.
void write_file(const std::filesystem::path& file, std::string_view text);
void write_file(const std::filesystem::path& file, std::span<const std::byte> bytes);

}  // namespace dsv4::test
