#include "kernels.cuh"

namespace ffrl::cuda {

const Kernels kTf32Kernels = KernelsOf<Tf32>::kAll;

}  // namespace ffrl::cuda
