// What the files of the C interface share: exceptions become a status and a line, versioned structs are read as far as the caller has them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <new>
#include <string>
#include <utility>

#include "base/error.h"
#include "dsv4/dsv4.h"

namespace dsv4::capi {

// An Error with the status it maps to.
class StatusError : public Error {
 public:
  StatusError(dsv4_status status, const std::string& line) : Error(line), status_(status) {}
  dsv4_status status() const { return status_; }

 private:
  dsv4_status status_;
};

template <typename... Args>
void expect(bool condition, dsv4_status status, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) throw StatusError(status, fmt::format(format, std::forward<Args>(args)...));
}

// Runs `call`; what it throws becomes a status, and its line goes into `message`. Other Errors than StatusError become `fallback`.
template <typename F>
dsv4_status guarded(std::string& message, dsv4_status fallback, F&& call) noexcept {
  try {
    message.clear();
    call();
    return DSV4_OK;
  } catch (const StatusError& error) {
    message = error.what();
    return error.status();
  } catch (const Error& error) {
    message = error.what();
    return fallback;
  } catch (const std::bad_alloc&) {
    message = "out of memory";
    return DSV4_ERROR_CAPACITY;
  } catch (const std::exception& error) {
    message = error.what();
    return DSV4_ERROR_INTERNAL;
  }
}

// The caller's line, cut to its size with the terminating zero; nothing where there is no room.
inline void write_line(const std::string& line, char* message, size_t message_size) {
  if (message == nullptr || message_size == 0) return;
  const size_t length = std::min(line.size(), message_size - 1);
  std::memcpy(message, line.data(), length);
  message[length] = '\0';
}

// The caller's struct, with defaults for what its version of the header did not have; nullptr: the defaults.
template <typename T>
T read_struct(const T* given, T defaults, const char* name) {
  if (given == nullptr) return defaults;
  expect(given->struct_size >= sizeof(size_t) && given->struct_size <= sizeof(T), DSV4_ERROR_INVALID_ARGUMENT,
         "{}: struct_size {}, expected at most {}: set it to sizeof({})", name, given->struct_size, sizeof(T), name);
  std::memcpy(&defaults, given, given->struct_size);
  return defaults;
}

}  // namespace dsv4::capi
