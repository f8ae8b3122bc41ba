"""The kernels of probes.cu as the tests see them. Also loaded under sanitizers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from cuda_host import Emulation

SOURCE = Path(__file__).with_name("probes.cu")

_ENUM = re.search(r"enum Fault \{(.*?)\}", SOURCE.read_text(), re.DOTALL)
assert _ENUM is not None
#: Of `run_faulty`; the names without their k.
FAULT_NUMBERS = {name: number for number, name in enumerate(re.findall(r"\bk(\w+)", _ENUM[1]))}


def aligned(size: int) -> np.ndarray:
    """Zeros, float32, aligned to 16 bytes."""
    return np.zeros(size, np.complex128).view(np.float32)[:size]


def launch(path: str, function: str, arguments: list[int]) -> None:
    """Calls a probe whose first argument is a buffer, in a library at ``path``."""
    Emulation(Path(path)).call(function, aligned(256), *arguments)
