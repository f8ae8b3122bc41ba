// The kernels of tf32 in place of those of ieee, and the choice of the fault planted in the kernels that is alive.
#include "../../kernels/cuda/kernels.hpp"
#include "planted.hpp"

namespace ffrl::cuda {

const Kernels kIeeeKernels = kTf32Kernels;

}  // namespace ffrl::cuda

extern "C" void ffrl_plant(int number) { cuda_host::alive = number; }
