"""Triton kernels of the operators; :class:`TritonEngine` is their way in."""

from .engine import TritonEngine
from .variants import variants

__all__ = ["TritonEngine", "variants"]
