"""Types of the module of autograd's nodes; csrc/bindings/autograd_module.cpp defines it."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

class Plan:
    def __init__(
        self,
        is_double: bool,
        sizes: tuple[int | float, ...],
        moves: bool,
        tangent: bool,
        log_det: bool,
        tape: int,
        taped: int,
        packed: int,
        plain: tuple[Any, ...],
        /,
    ) -> None: ...

_Given = tuple[Tensor | None, ...]

def describe(given: tuple[object, ...], /) -> bytes | None: ...
def field(plan: Plan, given: _Given, /) -> tuple[Tensor | None, ...]: ...
def hj_loss(plan: Plan, given: _Given, weight: Tensor | None, /) -> Tensor | None: ...
def value_and_grad(plan: Plan, given: _Given, weight: Tensor | None, /) -> tuple[Tensor | None, ...]: ...
def leave_to(backward: Callable[..., Sequence[Tensor]], scaled: Callable[..., Sequence[Tensor]], /) -> None: ...
def record(records: int, threads: int, /) -> None: ...
