"""Executes the PTX of CUDA and Triton kernels without a GPU, and reports what went wrong on the way.

>>> module = ptx.Module(ptx.compile_cuda(Path("kernel.cu")))
>>> launch = module.launch("kernel", grid=(2,), block=(128,), args=(x, out, 100))
>>> launch.races, launch.traffic[1].distinct_stored

See docs/gpu.md for what it executes, what it checks and what it cannot see.
"""

from ptx import mutate, triton
from ptx.cuda import CompilationError, compile_cuda
from ptx.launch import Launch, Race, Traffic
from ptx.library import Fault
from ptx.module import Module, fresh

__all__ = [
    "CompilationError",
    "Fault",
    "Launch",
    "Module",
    "Race",
    "Traffic",
    "compile_cuda",
    "fresh",
    "mutate",
    "triton",
]
