"""Types of the native module; csrc/bindings/module.cpp defines it."""

from collections.abc import Sequence

_Ints = Sequence[int]

def forward_f32(
    call: _Ints,
    potential: _Ints,
    force: _Ints | None,
    u: int,
    dt: int,
    grad: int,
    residual: int,
    value: int,
    tape: int,
    /,
) -> None: ...
def forward_f64(
    call: _Ints,
    potential: _Ints,
    force: _Ints | None,
    u: int,
    dt: int,
    grad: int,
    residual: int,
    value: int,
    tape: int,
    /,
) -> None: ...
def backward_f32(
    call: _Ints, potential: _Ints, force: _Ints | None, saved: _Ints, cotangents: _Ints, gradients: _Ints, /
) -> None: ...
def backward_f64(
    call: _Ints, potential: _Ints, force: _Ints | None, saved: _Ints, cotangents: _Ints, gradients: _Ints, /
) -> None: ...
def tape_row_f32(width: int, depth: int, derivatives: bool, /) -> int: ...
def tape_row_f64(width: int, depth: int, derivatives: bool, /) -> int: ...
def isa() -> str: ...
def isas() -> list[tuple[str, bool]]: ...
def layout(dim: int, width: int, depth: int, /) -> dict[str, int]: ...
