#include "kernels.cuh"

namespace ffrl::cuda {

const Kernels kBf16Kernels = KernelsOf<Bf16>::kAll;

}  // namespace ffrl::cuda
