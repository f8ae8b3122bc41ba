"""Types of the native module; csrc/bindings/module.cpp defines it."""

from collections.abc import Sequence

_Numbers = Sequence[int | float]

def forward_f32(sizes: _Numbers, given: _Numbers, outputs: _Numbers, /) -> None: ...
def forward_f64(sizes: _Numbers, given: _Numbers, outputs: _Numbers, /) -> None: ...
def backward_f32(
    sizes: _Numbers,
    given: _Numbers,
    saved: _Numbers,
    cotangents: _Numbers,
    gradients: _Numbers,
    /,
) -> None: ...
def backward_f64(
    sizes: _Numbers,
    given: _Numbers,
    saved: _Numbers,
    cotangents: _Numbers,
    gradients: _Numbers,
    /,
) -> None: ...
def loss_f32(
    sizes: _Numbers,
    given: _Numbers,
    value: int,
    weight: int,
    d_weight: int,
    gradients: _Numbers,
    /,
) -> None: ...
def loss_f64(
    sizes: _Numbers,
    given: _Numbers,
    value: int,
    weight: int,
    d_weight: int,
    gradients: _Numbers,
    /,
) -> None: ...
def kept_sizes_f32(sizes: _Numbers, given: _Numbers, /) -> tuple[int, int]: ...
def kept_sizes_f64(sizes: _Numbers, given: _Numbers, /) -> tuple[int, int]: ...
def fma_rate_f32(seconds: float, /) -> float: ...
def fma_rate_f64(seconds: float, /) -> float: ...

phase_record_size: int
#: The torch that the module _autograd was compiled for; None where there is no such module.
nodes_torch: str | None

class Block:
    def __init__(self, bytes: int, /) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

def idle_bytes() -> int: ...
def most_idle_bytes() -> int: ...
def release_idle() -> None: ...
def isa() -> str: ...
def isas() -> list[tuple[str, bool]]: ...
def layout(dim: int, width: int, depth: int, /) -> dict[str, int]: ...
