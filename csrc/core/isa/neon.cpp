#define FFRL_ISA neon
#define FFRL_VECTOR_BYTES 16
#define FFRL_VECTOR_REGISTERS 32

namespace ffrl::FFRL_ISA {
static bool supported() { return true; }
}  // namespace ffrl::FFRL_ISA

#include "entry.hpp"
