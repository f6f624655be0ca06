#include "model/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "base/error.h"

namespace dsv4 {
namespace {

[[noreturn]] void fail_with_errno(const std::filesystem::path& file) {
  const int error = errno;
  fail("{}: {}", file.string(), std::generic_category().message(error));
}

class Descriptor {
 public:
  // O_NONBLOCK: a named pipe in place of a file must not make the process wait for a writer.
  explicit Descriptor(const std::filesystem::path& file) : fd_(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
    if (fd_ < 0) fail_with_errno(file);
  }
  ~Descriptor() { ::close(fd_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int get() const { return fd_; }

 private:
  int fd_;
};

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& file) {
  const Descriptor descriptor(file);
  struct stat status {};
  if (::fstat(descriptor.get(), &status) != 0) fail_with_errno(file);
  require(S_ISREG(status.st_mode), "{}: {}, expected a regular file", file.string(),
          S_ISDIR(status.st_mode) ? "a directory" : "not a regular file");
  if (status.st_size == 0) return;
  const auto size = static_cast<size_t>(status.st_size);
  void* const memory = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor.get(), 0);
  if (memory == MAP_FAILED) fail_with_errno(file);
  bytes_ = {static_cast<const std::byte*>(memory), size};
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

MappedFile::MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  return *this;
}

std::string read_text_file(const std::filesystem::path& file, size_t max_bytes) {
  const MappedFile mapped(file);
  const auto bytes = mapped.bytes();
  require(bytes.size() <= max_bytes, "{}: {} bytes, expected at most {}", file.string(), bytes.size(), max_bytes);
  if (bytes.empty()) return {};
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace dsv4
