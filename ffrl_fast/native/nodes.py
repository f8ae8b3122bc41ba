"""Autograd's nodes in C++ (csrc/bindings/autograd_module.cpp), where they were compiled for the torch that runs.

They do what the ``_Direct…`` functions of field.py and loss.py do, which take over where there are none. The
environment variable FFRL_FAST_NODES, ``compiled`` or ``python``, forces either at import.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import torch

from ffrl_fast import _core

_CHOICES = ("compiled", "python")


def _why_not() -> str | None:
    """Why the compiled nodes cannot be used; None where they can."""
    if _core.nodes_torch is None:
        return "ffrl_fast was built where torch 2.13 was not installed"
    if _core.nodes_torch != torch.__version__:
        return f"ffrl_fast was built with torch {_core.nodes_torch}, and this is {torch.__version__}"
    return None


def _load() -> tuple[Any, str]:
    """The module, and in words which nodes are used."""
    forced, why_not = os.environ.get("FFRL_FAST_NODES", ""), _why_not()
    if forced and forced not in _CHOICES:
        raise RuntimeError(f"FFRL_FAST_NODES: expected one of {', '.join(_CHOICES)}, found {forced!r}")
    if forced == "compiled" and why_not is not None:
        raise RuntimeError(f"FFRL_FAST_NODES=compiled: {why_not}")
    if forced == "python":
        return None, "Python (FFRL_FAST_NODES)"
    if why_not is not None:
        return None, f"Python: {why_not}"
    try:
        module = importlib.import_module("ffrl_fast._autograd")
    except ImportError as error:
        # One version of torch may come in several builds.
        if forced:
            raise
        return None, f"Python: the module of those in C++ cannot be loaded, {error}"
    return module, f"C++, compiled for torch {torch.__version__}"


#: None where Python's nodes are used.
compiled, in_use = _load()
