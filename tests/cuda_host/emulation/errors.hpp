// What a launch can fail of, and where Python reads it.
#pragma once

#include <cstdarg>
#include <cstdio>
#include <string>

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidDevice = 101,
  cudaErrorLaunchFailure = 719,
};

namespace cuda_host {

/// Thrown in the thread of a kernel that did what CUDA forbids; ends the launch.
struct Fault {
  std::string message;
};

/// Thrown in the other threads of the block, so that their stacks unwind.
struct Cancelled {};

struct Failure {
  cudaError_t pending = cudaSuccess;  // what cudaGetLastError returns next
  std::string message;                // of the first failure since Python last asked

  void report(cudaError_t error, const std::string& what) {
    if (pending == cudaSuccess) pending = error;
    if (message.empty()) message = what;
  }
};

inline Failure failure;

[[gnu::format(printf, 1, 2)]] inline std::string text(const char* format, ...) {
  char line[1024];
  va_list values;
  va_start(values, format);
  std::vsnprintf(line, sizeof line, format, values);
  va_end(values);
  return line;
}

}  // namespace cuda_host
