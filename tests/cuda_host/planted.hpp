// Faults planted in the kernels, at most one of them alive: one library holds them all.
#pragma once

namespace cuda_host {

inline int alive = 0;  // number of the fault; 0: none

/// 1 where the fault is alive, to be added to a bound or a stride.
inline int planted(int number) { return alive == number; }

}  // namespace cuda_host
