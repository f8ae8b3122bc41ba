"""Types of the native module; csrc/bindings/module.cpp defines it."""

from collections.abc import Sequence

_Numbers = Sequence[int | float]

def forward_f32(call: _Numbers, potential: _Numbers, force: _Numbers | None, outputs: _Numbers, /) -> None: ...
def forward_f64(call: _Numbers, potential: _Numbers, force: _Numbers | None, outputs: _Numbers, /) -> None: ...
def backward_f32(
    call: _Numbers,
    potential: _Numbers,
    force: _Numbers | None,
    saved: _Numbers,
    cotangents: _Numbers,
    gradients: _Numbers,
    /,
) -> None: ...
def backward_f64(
    call: _Numbers,
    potential: _Numbers,
    force: _Numbers | None,
    saved: _Numbers,
    cotangents: _Numbers,
    gradients: _Numbers,
    /,
) -> None: ...
def loss_f32(
    call: _Numbers,
    potential: _Numbers,
    force: _Numbers | None,
    value: int,
    weight: int,
    d_weight: int,
    gradients: _Numbers,
    /,
) -> None: ...
def loss_f64(
    call: _Numbers,
    potential: _Numbers,
    force: _Numbers | None,
    value: int,
    weight: int,
    d_weight: int,
    gradients: _Numbers,
    /,
) -> None: ...
def kept_sizes_f32(call: _Numbers, potential: _Numbers, force: _Numbers | None, /) -> tuple[int, int]: ...
def kept_sizes_f64(call: _Numbers, potential: _Numbers, force: _Numbers | None, /) -> tuple[int, int]: ...
def fma_rate_f32(seconds: float, /) -> float: ...
def fma_rate_f64(seconds: float, /) -> float: ...

phase_record_size: int

class Block:
    def __init__(self, bytes: int, /) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

def idle_bytes() -> int: ...
def release_idle() -> None: ...
def isa() -> str: ...
def isas() -> list[tuple[str, bool]]: ...
def layout(dim: int, width: int, depth: int, /) -> dict[str, int]: ...
