#define FFRL_ISA avx512
#define FFRL_VECTOR_BYTES 64
#define FFRL_VECTOR_REGISTERS 32

namespace ffrl::FFRL_ISA {
static bool supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
}  // namespace ffrl::FFRL_ISA

#include "entry.hpp"
