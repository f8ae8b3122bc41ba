#define FFRL_ISA avx2
#define FFRL_VECTOR_BYTES 32
#define FFRL_VECTOR_REGISTERS 16

namespace ffrl::FFRL_ISA {
static bool supported() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
}  // namespace ffrl::FFRL_ISA

#include "entry.hpp"
