#include "kernels.cuh"

namespace ffrl::cuda {

const Kernels kIeeeKernels = KernelsOf<Ieee>::kAll;

}  // namespace ffrl::cuda
