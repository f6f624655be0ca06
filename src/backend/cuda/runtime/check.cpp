#include "backend/cuda/runtime/check.h"

#include <cstdarg>
#include <cstdio>

#include "base/error.h"

namespace dsv4::cuda {

void fail_cuda(cudaError_t status, const char* call, const char* context) {
  cudaGetLastError();  // clear what is not sticky
  fail("{}: {}{}{}{}", call, cudaGetErrorString(status), *context != '\0' ? " (" : "", context, *context != '\0' ? ")" : "");
}

void fail_line(const char* format, ...) {
  char line[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(line, sizeof(line), format, arguments);
  va_end(arguments);
  throw Error(line);
}

}  // namespace dsv4::cuda
