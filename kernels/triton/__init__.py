"""Triton kernels of the operators; :class:`TritonEngine` is their way in."""

from .engine import TritonEngine
from .ahead_of_time import variants

__all__ = ["TritonEngine", "variants"]
