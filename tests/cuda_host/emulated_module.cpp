// The project's own binding, compiled with the emulation.
#undef __noinline__  // pybind11 has it among the compiler's attributes
#include "../../csrc/bindings/cuda_module.cpp"
