"""Triton kernels of the operators; :class:`TritonEngine` is their way in."""

from .ahead_of_time import variants
from .engine import TritonEngine

__all__ = ["TritonEngine", "variants"]
