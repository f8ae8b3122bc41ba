"""Triton kernels of the operators; :class:`TritonEngine` is their way in."""

from .engine import TritonEngine

__all__ = ["TritonEngine"]
