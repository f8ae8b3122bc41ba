// CUDA on the host, for tests: the compiler includes this header before a .cu source, and the kernels in it run on
// fibers.
#pragma once

#include "arithmetic.hpp"
#include "async_copies.hpp"
#include "block.hpp"
#include "collectives.hpp"
#include "control.hpp"
#include "launch.hpp"
#include "matrix.hpp"
#include "runtime.hpp"
#include "shared_memory.hpp"
#include "traffic.hpp"
#include "types.hpp"
// Last: it redefines words that the headers above may use.
#include "keywords.hpp"
