"""Types of the CUDA module; csrc/bindings/cuda_module.cpp defines it."""

from collections.abc import Sequence

_Numbers = Sequence[int | float]

def workspace_floats(
    call: _Numbers, potential: _Numbers, force: _Numbers | None, backward: bool, device: int, /
) -> int: ...
def forward(
    call: _Numbers,
    potential: _Numbers,
    force: _Numbers | None,
    outputs: _Numbers,
    workspace: int,
    device: int,
    stream: int,
    /,
) -> None: ...
def backward(
    call: _Numbers,
    potential: _Numbers,
    force: _Numbers | None,
    saved: _Numbers,
    cotangents: _Numbers,
    gradients: _Numbers,
    workspace: int,
    device: int,
    stream: int,
    /,
) -> None: ...
